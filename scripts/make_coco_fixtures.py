#!/usr/bin/env python3
"""Makes tests/data/coco: annotated pictures, detections, and what COCO's own tools say of them.

  python3 scripts/make_coco_fixtures.py [FOLDER]      needs numpy and pycocotools (2.0.11 made what is there)

  annotations.json, results.json   a made-up data set: objects of all sizes, crowds, pictures without any;
                                   detections near and far, equal scores, more than a hundred in one picture
  expected.json                    for boxes and masks: twelve scores, and the average precision of each category;
                                   for every polygon: the text of its mask, its area and box
"""
import contextlib
import io
import json
import os
import sys

import numpy
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CATEGORIES = [3, 17, 5, 90]
N_IMAGES = 14


def polygon(draw, width, height, size):
    """Corners around a point, perhaps outside of the picture."""
    n = int(draw.integers(3, 9))
    centre = draw.uniform(0, 1, 2) * [width, height]
    angles = numpy.sort(draw.uniform(0, 2 * numpy.pi, n))
    radii = size * draw.uniform(0.3, 1.0, n)
    corners = centre + numpy.stack([radii * numpy.cos(angles), radii * numpy.sin(angles)], 1)
    return [round(float(v), 2) for v in corners.reshape(-1)]


def coded(polygons, width, height):
    code = masks.merge(masks.frPyObjects(polygons, height, width))
    return {"size": [height, width], "counts": code["counts"].decode()}


def annotation(draw, number, image, crowd):
    width, height = image["width"], image["height"]
    polygons = [polygon(draw, width, height, draw.choice([12, 45, 120])) for _ in range(draw.integers(1, 3))]
    code = coded(polygons, width, height)
    segmentation = polygons
    if crowd:
        bits = masks.decode(code)
        runs, last = [], 0
        for value in bits.flatten(order="F"):
            if value == last and runs:
                runs[-1] += 1
            elif value == last:
                runs = [1]
            else:
                runs = runs + [1] if runs else [0, 1]
            last = value
        segmentation = {"size": [height, width], "counts": runs}
    return {
        "id": number, "image_id": image["id"], "category_id": int(draw.choice(CATEGORIES[:3])), "iscrowd": int(crowd),
        "segmentation": segmentation, "area": float(masks.area(code)), "bbox": [float(v) for v in masks.toBbox(code)],
    }


def detection(draw, image, near):
    width, height = image["width"], image["height"]
    category = int(draw.choice(CATEGORIES))
    polygons = [polygon(draw, width, height, draw.choice([12, 45, 120]))]
    if near is not None:
        category = near["category_id"] if draw.uniform() < 0.9 else category
        x, y, w, h = near["bbox"]
        shift = draw.normal(0, 0.08, 4) * [w, h, w, h]
        x, y, w, h = x + shift[0], y + shift[1], max(2, w + shift[2]), max(2, h + shift[3])
        polygons = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if not near["iscrowd"] and draw.uniform() < 0.7:
            polygons = [[v + float(draw.normal(0, 1.5)) for v in p] for p in near["segmentation"]]
    code = coded(polygons, width, height)
    box = masks.toBbox(code) + numpy.abs(draw.normal(0, 0.5, 4))
    return {
        "image_id": image["id"], "category_id": category, "score": round(float(draw.uniform()), 2),
        "bbox": [round(float(v), 3) for v in box], "segmentation": code,
    }


def scores(truth, results, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        if kind == "segm":  # the area of a detection is that of its mask
            results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
        run = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, 2]
    each = [precision[:, :, k] for k in range(precision.shape[2])]
    return {
        "stats": [None if v < 0 else float(v) for v in run.stats],
        "categories": [float(p[p > -1].mean()) if (p > -1).any() else None for p in each],
    }


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../tests/data/coco")
    draw = numpy.random.default_rng(7)
    images = [{"id": 1000 - 37 * i, "file_name": f"{i}.jpg", "width": int(draw.integers(60, 300)),
               "height": int(draw.integers(60, 300))} for i in range(N_IMAGES)]
    annotations, results = [], []
    for i, image in enumerate(images):
        there = [annotation(draw, 1 + len(annotations) + k, image, k % 6 == 5) for k in range(0 if i == 4 else 5)]
        annotations += there
        results += [detection(draw, image, a) for a in there for _ in range(draw.integers(0, 3))]
        results += [detection(draw, image, None) for _ in range(2)]
    one = [a for a in annotations if a["image_id"] == images[0]["id"]][0]
    results += [detection(draw, images[0], one) for _ in range(130)]
    crowd = annotation(draw, 1 + len(annotations), images[1], True)
    annotations.append(crowd)
    results += [detection(draw, images[1], crowd) for _ in range(4)]
    draw.shuffle(annotations)
    data = {"images": images, "annotations": annotations,
            "categories": [{"id": c, "name": f"kind {c}"} for c in CATEGORIES]}
    os.makedirs(folder, exist_ok=True)
    for name, value in (("annotations", data), ("results", results)):
        with open(os.path.join(folder, name + ".json"), "w") as file:
            json.dump(value, file)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(os.path.join(folder, "annotations.json"))
    expected = {kind: scores(truth, results, kind) for kind in ("bbox", "segm")}
    expected["masks"] = {}
    for a in annotations:
        code = truth.annToRLE(a)
        expected["masks"][str(a["id"])] = {"text": code["counts"].decode(), "area": int(masks.area(code)),
                                           "bbox": [float(v) for v in masks.toBbox(code)]}
    with open(os.path.join(folder, "expected.json"), "w") as file:
        json.dump(expected, file)


main()
