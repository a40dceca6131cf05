#!/usr/bin/env bash
# Networks in C on microcontrollers: compiled with all warnings as errors for four processors, with their sizes; run in QEMU on test
# images, where every logit must be that of the same file on this machine. Needs cargo, a C compiler, gcc-arm-none-eabi and
# qemu-system-arm, and for an AVR gcc-avr, avr-libc and simavr; what is missing is skipped, or fails if SHADERNET_REQUIRE_QEMU=1.
# QEMU counts instructions; it knows no cycles.
set -euo pipefail
cd "$(dirname "$0")/../.."

for program in arm-none-eabi-gcc qemu-system-arm; do
    if ! command -v "$program" >/dev/null; then
        echo "skipped: there is no $program"
        [ "${SHADERNET_REQUIRE_QEMU:-0}" = 0 ]
        exit
    fi
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$PWD
board=$root/examples/microcontroller
count=200
strict=(-std=c99 -pedantic -Wall -Wextra -Wconversion -Werror)
cpus=(cortex-m0 cortex-m3 cortex-m4 cortex-m7)

fail() {
    echo "error: $*" >&2
    exit 1
}
# The compiler for a processor.
gcc_for() {
    local cpu=$1 float=()
    shift
    case $cpu in
    cortex-m4) float=(-mfloat-abi=hard -mfpu=fpv4-sp-d16) ;;
    cortex-m7) float=(-mfloat-abi=hard -mfpu=fpv5-d16) ;;
    esac
    arm-none-eabi-gcc "-mcpu=$cpu" -mthumb "${float[@]}" -Os "$@"
}
# Flash and RAM of a linked program.
flash() { arm-none-eabi-size "$1" | awk 'NR == 2 { print $1 + $2 }'; }
ram() { arm-none-eabi-size "$1" | awk 'NR == 2 { print $2 + $3 }'; }

gzip -dc data/mnist/t10k-images-idx3-ubyte.gz >"$work/idx"
tail -c +17 "$work/idx" >"$work/all"
head -c $((count * 28 * 28)) "$work/all" >"$work/images"
gzip -dc data/mnist/t10k-labels-idx1-ubyte.gz >"$work/idx"
od -An -v -tu1 -w1 -j 8 -N $count "$work/idx" >"$work/labels"
printf '.section .rodata.images\n.global images, images_end\nimages: .incbin "%s"\nimages_end:\n' "$work/images" >"$work/images.s"

# Exports a network into a folder, and computes its logits here.
export_and_run() {
    local model=$1 out=$2
    shift 2
    mkdir "$out"
    cargo run --quiet --release -- export "data/models/$model.safetensors" --c "$out/net.c" --header "$@" >/dev/null
    "${CC:-gcc}" -O1 -std=c99 -I"$out" "$out/net.c" tests/c/main.c -lm -o "$out/here"
    "$out/here" <"$work/images" >"$out/wanted"
}
# Compiles a network for a processor: alone, as a program that consists of nothing else, and with the images.
build() {
    local cpu=$1 out=$2
    gcc_for "$cpu" "${strict[@]}" -ffreestanding -c "$out/net.c" -o "$out/$cpu.o"
    gcc_for "$cpu" -nostdlib -Wl,--gc-sections,--entry=net_classify "$out/$cpu.o" -lgcc -o "$out/$cpu-alone"
    gcc_for "$cpu" "${strict[@]}" -ffreestanding -nostdlib -Wl,--gc-sections -I"$out" -T "$board/board.ld" \
        tests/microcontroller/main.c "$board/board.c" "$work/images.s" "$out/$cpu.o" -lgcc -o "$out/$cpu-program"
}
# Runs it; what it prints is in the file `said`, its logits in `logits`.
emulate() {
    local cpu=$1 out=$2 machine
    case $cpu in
    cortex-m0) machine=microbit ;;
    cortex-m3) machine=mps2-an385 ;;
    cortex-m4) machine=mps2-an386 ;;
    cortex-m7) machine=mps2-an500 ;;
    esac
    mkdir "$out/$cpu"
    (cd "$out/$cpu" && timeout 600 qemu-system-arm -M "$machine" -display none -monitor none -serial none -icount shift=0 \
        -semihosting-config enable=on,target=native -kernel "$out/$cpu-program" >said) || fail "$out, $cpu: $(cat "$out/$cpu/said")"
}
said() { awk -v name="$1" '$1 == name { print $2 }' "$2/said"; }
# Logits as text, an image a line: of 16 bits, or `float`.
logits() {
    case $1 in
    int8) od -An -v -td2 -w20 "$2" ;;
    float) od -An -v -tf4 -w40 "$2" ;;
    esac
}
# How many images are classified rightly.
right() {
    paste -d' ' "$work/labels" <(logits "$1" "$2") |
        awk '{ best = 2; for (i = 3; i <= NF; i++) if ($i > $best) best = i; right += best - 2 == $1 } END { print right }'
}
# Fails unless the logits are the same: in whole numbers in all bits, in `float` but for 1e-4.
same() {
    [ "$(wc -c <"$2")" = "$(wc -c <"$3")" ] || return 1
    case $1 in
    int8) cmp -s "$2" "$3" ;;
    float) [ "$(largest_difference "$2" "$3" | awk '{ print $1 <= 1e-4 }')" = 1 ] ;;
    esac
}
largest_difference() {
    paste -d' ' <(od -An -v -tf4 -w4 "$1") <(od -An -v -tf4 -w4 "$2") | awk '
        { d = $1 < $2 ? $2 - $1 : $1 - $2; if (d > most) most = d; if ($0 ~ /[ni]/) most = 1e9 } END { print most + 0 }'
}

each='M0 | M3 | M4 | M7'
echo "| network | numbers | right of $count | constants | flash $each | RAM | stack $each | instructions $each |"
echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
for net in seed:int8 separable-4.6k:int8 separable-2.5k:int8 recurrent-1k:int8 separable-2.5k:float; do
    model=${net%:*} form=${net#*:} out=$work/$net
    if [ "$form" = int8 ]; then export_and_run "$model" "$out" --int8; else export_and_run "$model" "$out"; fi
    right=$(right "$form" "$out/wanted")
    [ "$right" -ge 190 ] || fail "$net: $right of $count images right"
    flash='' stack='' instructions=''
    for cpu in "${cpus[@]}"; do
        build "$cpu" "$out"
        emulate "$cpu" "$out"
        same "$form" "$out/wanted" "$out/$cpu/logits" || fail "$net: other logits on $cpu"
        flash+=" $(flash "$out/$cpu-alone") |"
        stack+=" $(said stack "$out/$cpu") |"
        instructions+=" $(said instructions "$out/$cpu") |"
    done
    constants=$(arm-none-eabi-size -A "$out/cortex-m3.o" | awk '$1 ~ /^\.rodata/ { sum += $2 } END { print sum }')
    ram=$(ram "$out/cortex-m3.o")
    echo "| $model | $form | $right | $constants |$flash $ram |$stack$instructions"
    if [ "$net" = separable-2.5k:int8 ]; then
        [ "$(flash "$out/cortex-m3-alone")" -le 8000 ] || fail "$net takes more than 8 kB of flash"
        [ $((ram + $(said stack "$out/cortex-m3"))) -le 3000 ] || fail "$net takes more than 3 kB of memory"
    fi
done
program=$work/separable-2.5k:int8/cortex-m3-program
whole=$(($(flash "$program") - $(wc -c <"$work/images")))
echo "With its board and this test, but without the images, separable-2.5k in int8 takes $whole bytes of flash on a Cortex-M3."
for cpu in "${cpus[@]}"; do
    echo "Largest difference in float, $cpu: $(largest_difference "$out/wanted" "$out/$cpu/logits")"
done

# A single wrong bit is noticed, and in `float` a logit that is off by a sixteenth of itself.
for net in seed:int8 separable-2.5k:float; do
    out=$work/$net
    cp "$out/cortex-m3/logits" "$out/wrong"
    case ${net#*:} in
    int8) at=1000 bit=1 ;;
    float) at=1002 bit=8 ;;
    esac
    byte=$(od -An -tu1 -j $at -N 1 "$out/wrong")
    printf "$(printf '\\%03o' $((byte ^ bit)))" | dd of="$out/wrong" bs=1 seek=$at conv=notrunc status=none
    ! same "${net#*:}" "$out/wanted" "$out/wrong" || fail "a wrong logit of $net was not noticed"
done

# An AVR: `int` has 16 bits there, and constants are in RAM. simavr counts cycles.
if command -v avr-gcc >/dev/null && command -v simavr >/dev/null; then
    avr_count=5
    avr=(avr-gcc -mmcu=atmega1284p -Os)
    printf '.section .progmem.images,"a"\n.global images, images_end\nimages: .incbin "%s", 0, %d\nimages_end:\n' \
        "$work/images" $((avr_count * 28 * 28)) >"$work/avr.s"
    echo "| network, int8, ATmega1284P | flash | RAM | stack | cycles |"
    echo "|---|---|---|---|---|"
    for model in seed separable-4.6k separable-2.5k recurrent-1k; do
        out=$work/$model:int8
        "${avr[@]}" "${strict[@]}" -c "$out/net.c" -o "$out/avr.o"
        "${avr[@]}" -nostartfiles -nodefaultlibs -Wl,--gc-sections,--entry=net_classify "$out/avr.o" -lgcc -o "$out/avr-alone"
        "${avr[@]}" -std=c99 -Wall -Wextra -I"$out" tests/microcontroller/avr.c "$work/avr.s" "$out/avr.o" -o "$out/avr.elf"
        # It shows the serial port in colours, with a dot for the end of a line.
        timeout 600 simavr -m atmega1284p -f 16000000 "$out/avr.elf" >"$out/avr.log" 2>&1 || fail "$model: $(cat "$out/avr.log")"
        sed 's/\x1b\[[0-9;]*m//g' "$out/avr.log" | grep -Eo '^[0-9a-f]{8}\.$' | tr -d . >"$out/avr.said"
        od -An -v -td2 -w2 -N $((avr_count * 20)) "$out/wanted" | while read -r logit; do
            printf '%08x\n' $((logit & 0xffffffff))
        done >"$out/avr.wanted"
        lines=$((avr_count * 10))
        cmp <(head -n $lines "$out/avr.said") "$out/avr.wanted" || fail "$model: other logits on an AVR"
        { read -r stack && read -r cycles; } < <(tail -n +$((lines + 1)) "$out/avr.said")
        echo "| $model | $(flash "$out/avr-alone") | $(ram "$out/avr-alone") | $((16#$stack)) | $((16#$cycles)) |"
    done
else
    echo "skipped: there is no avr-gcc or no simavr"
    [ "${SHADERNET_REQUIRE_QEMU:-0}" = 0 ] || exit 1
fi

# The example: every drawn digit.
for cpu in cortex-m0 cortex-m3 cortex-m4; do
    make -s -C "$board" BUILD="$work/example" CPU=$cpu run >"$work/said"
    [ "$(grep -c '\.png: ' "$work/said")" = "$(ls data/digits/*.png | wc -l)" ] || fail "the example: $(cat "$work/said")"
    ! awk '/\.png: / && substr($1, 1, 1) != $2 { print; wrong = 1 } END { exit !wrong }' "$work/said" || fail "the example is wrong"
    grep '^RAM' "$work/said"
done
