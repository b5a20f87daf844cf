#!/usr/bin/env python3
"""iBOT's augmentation in Python, for comparison with loader_bench: on Pillow images, as the original
works, and with torchvision v2 on uint8 tensors, the fastest way there is in torchvision. One thread;
rates are per second of processor time. Needs torch, torchvision, Pillow, numpy.

  scripts/bench_pillow.py DIR
  scripts/bench_pillow.py DIR --loader_bench build/bin/loader_bench    by turns with ours, and ratios
"""
import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


def images_below(folder):
    found = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names
             if name.lower().endswith(ENDINGS)]
    if not found:
        sys.exit(f"bench_pillow: no images below '{folder}'")
    return sorted(found)


def block_mask(grid, ratio):
    """A blockwise mask: rectangles of 0.3 to 1/0.3 until the share of the grid is reached."""
    import numpy
    mask = numpy.zeros((grid, grid), dtype=bool)
    wanted, count, low = ratio * grid * grid, 0, math.log(0.3)
    while count < wanted:
        added = 0
        for _ in range(10):
            area = random.uniform(4, wanted - count) if wanted - count > 4 else 4
            aspect = math.exp(random.uniform(low, -low))
            h, w = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
            if w < grid and h < grid:
                top, left = random.randint(0, grid - h), random.randint(0, grid - w)
                block = mask[top:top + h, left:left + w]
                new = block.size - int(block.sum())
                if 0 < new <= wanted - count:
                    block[:] = True
                    added = new
                    break
        if added == 0:
            break
        count += added
    return mask


class PillowPipeline:
    """Every step on a Pillow image, then a normalised float tensor."""
    name = "pillow"

    def __init__(self, n_local):
        from PIL import Image, ImageFilter, ImageOps
        from torchvision import transforms
        self.image = Image

        def blur(image):
            return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))

        def view(size, scale, p_blur, p_solarize):
            steps = [
                transforms.RandomResizedCrop(size, scale=scale,
                                             interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.RandomHorizontalFlip(0.5),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                transforms.RandomGrayscale(0.2),
                transforms.Lambda(lambda x: blur(x) if random.random() < p_blur else x),
                transforms.Lambda(lambda x: ImageOps.solarize(x)
                                  if random.random() < p_solarize else x),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
            return transforms.Compose(steps)

        self.views = [view(224, (0.25, 1.0), 1.0, 0.0), view(224, (0.25, 1.0), 0.1, 0.2)]
        self.views += [view(96, (0.05, 0.25), 0.5, 0.0)] * n_local

    def __call__(self, path):
        with open(path, "rb") as file:
            image = self.image.open(file).convert("RGB")
        crops = [view(image) for view in self.views]
        # one for each crop, as the original draws them
        return crops, [block_mask(14, random.choice((0.0, random.uniform(0.1, 0.5))))
                       for _ in crops]


class TensorPipeline:
    """The same with torchvision v2 on uint8 tensors; floats only at the end."""
    name = "torchvision_v2"

    def __init__(self, n_local):
        import torch
        from torchvision import io
        from torchvision.transforms import v2
        self.read = lambda path: io.decode_image(io.read_file(path), io.ImageReadMode.RGB)

        def view(size, scale, p_blur, p_solarize):
            steps = [
                v2.RandomResizedCrop(size, scale=scale, antialias=True,
                                     interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                v2.RandomGrayscale(0.2),
            ]
            if p_blur > 0:
                steps.append(v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], p=p_blur))
            if p_solarize > 0:
                steps.append(v2.RandomSolarize(128, p=p_solarize))
            steps += [v2.ToDtype(torch.float32, scale=True),
                      v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
            return v2.Compose(steps)

        self.views = [view(224, (0.25, 1.0), 1.0, 0.0), view(224, (0.25, 1.0), 0.1, 0.2)]
        self.views += [view(96, (0.05, 0.25), 0.5, 0.0)] * n_local

    def __call__(self, path):
        image = self.read(path)
        crops = [view(image) for view in self.views]
        return crops, [block_mask(14, random.choice((0.0, random.uniform(0.1, 0.5))))
                       for _ in range(2)]


def rate(pipeline, paths):
    start = time.process_time()
    for path in paths:
        pipeline(path)
    return len(paths) / (time.process_time() - start)


def ours(program, folder, n_local):
    command = [program, folder, "--threads", "1", "--rounds", "3", "--local_crops_number",
               str(n_local), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--loader_bench", metavar="PROGRAM")
    parser.add_argument("--local_crops_number", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=200, help="at most, in each round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    import PIL
    import torch
    import torchvision
    torch.set_num_threads(1)
    paths = images_below(options.folder)[:options.images]
    pipelines = [PillowPipeline(options.local_crops_number),
                 TensorPipeline(options.local_crops_number)]
    rates = {pipeline.name: [] for pipeline in pipelines}
    reports = []
    for pipeline in pipelines:  # first touches
        rate(pipeline, paths[:5])
    for _ in range(options.rounds):
        for pipeline in pipelines:
            rates[pipeline.name].append(rate(pipeline, paths))
        if options.loader_bench:
            reports.append(ours(options.loader_bench, options.folder,
                                options.local_crops_number))
    result = {"pillow_version": PIL.__version__, "torch": torch.__version__,
              "torchvision": torchvision.__version__, "images": len(paths)}
    result.update({name + "_per_second_per_core": statistics.median(values)
                   for name, values in rates.items()})
    if reports:
        result["ours_per_second_per_core"] = statistics.median(
            report["images_per_second_per_core"] for report in reports)
        result["ours_share_of_decode_only"] = statistics.median(
            report["share_of_decode_only"] for report in reports)
        for name in rates:
            result["ours_against_" + name] = (result["ours_per_second_per_core"] /
                                              result[name + "_per_second_per_core"])
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {value:.2f}" if isinstance(value, float) else f"{key}: {value}")


if __name__ == "__main__":
    main()
