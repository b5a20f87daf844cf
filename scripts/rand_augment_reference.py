#!/usr/bin/env python3
"""Applies the operations of RandAugment as timm and Pillow do, and prints the table of hashes that
tests/loader/rand_augment_test.c holds the loader to.

  pip install timm pillow numpy xxhash
  scripts/rand_augment_reference.py
"""
import numpy as np
import timm.data.auto_augment as aa
import xxhash
from PIL import Image

OPS = [("AutoContrast",) * 2, ("Equalize",) * 2, ("Invert",) * 2, ("Rotate",) * 2,
       ("Posterize", "PosterizeIncreasing"), ("Solarize", "SolarizeIncreasing"), ("SolarizeAdd",) * 2,
       ("Color", "ColorIncreasing"), ("Contrast", "ContrastIncreasing"),
       ("Brightness", "BrightnessIncreasing"), ("Sharpness", "SharpnessIncreasing"),
       ("ShearX",) * 2, ("ShearY",) * 2, ("TranslateXRel",) * 2, ("TranslateYRel",) * 2]
GEOMETRIC = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
FILL = (124, 116, 104)
SIZES = [(61, 47), (64, 64), (224, 224), (33, 90)]
MAGNITUDES = [0.0, 0.37, 3.3, 7.5, 8.71, 9.0, 9.64, 10.0]


def picture(kind, width, height):
    """0: waves with noise, 1: noise, 2: dull, 3: of few colours. The test makes the same ones."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3].astype(np.uint64)
    noise = (((y * width + x) * 3 + c + 1) * np.uint64(2654435761) & np.uint64(0xffffffff)) >> np.uint64(13)
    wave = (x * x + np.uint64(3) * y * (c + 1) + x * y // np.uint64(7))
    triangle = np.where(wave % 512 < 256, wave % 512, 511 - wave % 512)
    value = [(triangle * 7 + noise % 256) // 8, noise % 256, 90 + (triangle + noise % 64) // 6 + 5 * c,
             triangle // 64 * 60 + 3 * c][kind]
    return Image.fromarray(value.astype(np.uint8))


def apply(image, op, increasing, magnitude, negative, cubic):
    name = OPS[op][increasing]
    aa._randomly_negate = lambda v: -v if negative else v
    level = aa.LEVEL_TO_ARG[name]
    args = level(magnitude, {}) if level else ()
    return aa.NAME_TO_OP[name](image, *args, fillcolor=FILL,
                               resample=Image.BICUBIC if cubic else Image.BILINEAR)


def main():
    for op, (plain, other) in enumerate(OPS):
        for increasing in ([0, 1] if plain != other else [1]):
            name = OPS[op][increasing]
            level = aa.LEVEL_TO_ARG[name]
            signed = name in GEOMETRIC or "Increasing" in name and op >= 7
            for negative in [0, 1] if signed else [0]:
                for cubic in [0, 1] if name in GEOMETRIC else [0]:
                    whole = xxhash.xxh3_64()
                    for i, magnitude in enumerate(MAGNITUDES if level else [0.0]):
                        if "Posterize" in name and level(magnitude, {})[0] == 0:
                            continue  # newer Pillows refuse to keep no bit at all
                        for kind in range(4):
                            image = picture(kind, *SIZES[(kind + i) % 4])
                            image = apply(image, op, increasing, magnitude, negative, cubic)
                            whole.update(np.asarray(image).tobytes())
                    print(f"    {{{op}, {increasing}, {negative}, {cubic}, {whole.intdigest():#018x}u}},")


main()
