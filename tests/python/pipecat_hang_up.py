#!/usr/bin/env python3
"""Ends a call as a Pipecat bot does: by the serializer that its transport has for Twilio, unchanged, at the end of
the pipeline. Prints what the serializer says in its log.

    PYTHONPATH=target/bot-packages/pipecat ./pipecat_hang_up.py MZ… CA…

Environment: TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN.
"""
import asyncio
import os
import sys

from loguru import logger
from pipecat.frames.frames import EndFrame
from pipecat.serializers.twilio import TwilioFrameSerializer


async def main(stream_sid, call_sid):
    serializer = TwilioFrameSerializer(
        stream_sid=stream_sid,
        call_sid=call_sid,
        account_sid=os.environ["TWILIO_ACCOUNT_SID"],
        auth_token=os.environ["TWILIO_AUTH_TOKEN"],
    )
    await serializer.serialize(EndFrame())


logger.remove()
logger.add(sys.stdout, level="DEBUG", format="{level} {message}")
asyncio.run(main(*sys.argv[1:]))
