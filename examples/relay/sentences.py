"""Tokens of a language model to pieces that can be spoken."""
import re

# Longer text without an end of sentence is cut at a blank: nobody waits for it.
CHARS_MAX = 300
# A mark of its end and a blank; what is written without blanks ends with the mark alone.
_END = re.compile(r"""[.!?…:;]+["'”’)\]]*\s+|[。！？]|\n+""")


class Sentences:
    """Holds what has no end yet."""

    def __init__(self):
        self._held = ""

    def feed(self, token):
        """The sentences that are whole now."""
        self._held += token
        whole = []
        while end := _END.search(self._held):
            whole += self._take(end.end())
        while len(self._held) > CHARS_MAX:
            at = self._held.rfind(" ", 1, CHARS_MAX)
            whole += self._take(at if at > 0 else CHARS_MAX)
        return whole

    def flush(self):
        """What is left, whether it has an end or not."""
        return self._take(len(self._held))

    def _take(self, chars):
        text, self._held = self._held[:chars], self._held[chars:]
        # Of what is longer than a sentence may be, in pieces.
        pieces = [text[at:at + CHARS_MAX].strip() for at in range(0, len(text), CHARS_MAX)]
        return [piece for piece in pieces if any(map(str.isalnum, piece))]
