#!/bin/sh
# Makes the two voices of the demo anew, with FFmpeg's flite source (libflite: BSD-like licence).
set -eu
cd "$(dirname "$0")"
length=13.2

# speak FILE VOICE AT_MS TEXT AT_MS TEXT
speak() {
    ffmpeg -hide_banner -loglevel error -y \
        -f lavfi -i "flite=voice=$2:text='$4'" -f lavfi -i "flite=voice=$2:text='$6'" \
        -filter_complex "[0]aresample=48000,adelay=$3[a];[1]aresample=48000,adelay=$5[b];[a][b]amix=normalize=0,apad=whole_dur=$length,atrim=end=$length" \
        -ac 1 -c:a libopus -b:a 20k -application voip -frame_duration 20 -fflags +bitexact -flags:a +bitexact "$1"
}

speak caller.opus rms 300 'Hello, this is Alex. When will my parcel arrive?' 8300 'That is perfect, thank you.'
speak assistant.opus slt 4400 'Hi Alex! It arrives tomorrow, between three and five.' 10600 'You are welcome. Have a nice day!'
