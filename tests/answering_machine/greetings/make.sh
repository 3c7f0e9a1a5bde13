#!/usr/bin/env bash
# Makes the greetings of tests/answering_machine beside this script: what people and machines say
# when they answer, spoken by espeak-ng, through a telephone's band, as mu-law at 8 kHz without a
# header. Needs espeak-ng and sox (vendor/packages.sh demo). They are in the repository, so that the
# tests need neither and hear the same on every machine.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

# say NAME VOICE SPEED TEXT
say() {
    espeak-ng -v "$2" -s "$3" --stdout "$4" |
        sox -V1 -t wav - -t raw -e mu-law -b 8 -r 8000 -c 1 "$1.ulaw" \
            sinc 300-3400 silence 1 0.01 0.5% reverse silence 1 0.01 0.5% reverse norm -9 trim 0 4.9
}

say person-hello en-us 160 'Hello?'
say person-who en-gb+f3 165 'Hello, who is this?'
say person-yeah en-us+m3 170 'Yeah?'
say person-allo fr+f2 150 'Allô?'
say person-oui fr 165 'Oui allô, bonjour?'
say person-bitte de 160 'Schmidt, guten Tag?'
say person-digame es+f4 160 '¿Dígame?'
say person-pronto it 155 'Pronto, chi parla?'
say person-pizzeria en-us+f3 175 'Pizzeria Roma, good evening?'
say person-bistro fr+f2 175 'Restaurant Le Petit Bistro, bonjour.'
# Longer than the threshold of 2.4 s.
say person-office en-gb+f3 175 'Good afternoon, Miller and Sons, this is Karen speaking. How may I help you?'

say machine-mobile en-us 160 "Hi, you have reached Anna. I can't come to the phone right now. Please leave your name and number."
say machine-carrier en-gb+f3 165 'The person you are calling is not available. Please leave a message after the tone.'
say machine-messagerie fr 160 'Bonjour, vous êtes bien sur la messagerie de Paul. Laissez un message après le signal sonore.'
say machine-absent fr+f2 155 "Votre correspondant n'est pas disponible pour le moment. Veuillez rappeler plus tard."
say machine-mailbox de 165 'Guten Tag, hier ist die Mailbox der Familie Müller. Bitte sprechen Sie nach dem Signalton.'
say machine-buzon es+f4 165 'Ha llamado al buzón de voz. Por favor, deje su mensaje después de la señal.'
say machine-segreteria it 160 'Segreteria telefonica. Lasciate un messaggio dopo il segnale acustico, grazie.'
say machine-closed en-us+f3 175 'Thank you for calling Pizzeria Roma. We are closed now. We open at five in the afternoon.'
say machine-brief en-us+m3 165 'Leave a message.'
