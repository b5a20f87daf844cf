#!/usr/bin/env python3
"""Checks that the tree keeps its layout: who includes whom, no cycles, names, guards, lengths.

  scripts/check_layout.py            errors only; exit status 1 when there are any
  scripts/check_layout.py --advice   also what is allowed but longer than it should be

The allowed directions (a folder may always include itself):

  proto/base <- proto/config <- proto/wire <- loader
  proto/base <- proto/monitor <- loader, trainer
  proto/base <- ops/pixels <- ops <- kernels
  ops/pixels <- loader <- stream
  ops/pixels <- trainer (pictures)
  ops <- trainer/model, trainer/weights <- trainer <- trainer/{train,eval,analysis}
  trainer <- trainer/detect <- trainer/eval
  loader is seen by trainer/images.c and trainer/eval/picture_file.c alone, of the trainer
  kernels are seen by trainer/backend.c alone; tests may include everything
"""
import os
import re
import subprocess
import sys

PROTO = ["proto/base", "proto/config", "proto/wire", "proto/monitor", "proto"]
TRAINER = PROTO + ["ops", "ops/pixels", "trainer/model", "trainer/weights", "trainer"]
ALLOWED = {
    "proto/base": ["proto/base"],
    "proto/config": ["proto/base", "proto/config"],
    "proto/wire": ["proto/base", "proto/config", "proto/wire", "proto"],
    "proto/monitor": ["proto/base", "proto/monitor"],
    "proto": PROTO,
    "ops/pixels": ["proto/base", "ops/pixels"],
    "loader": PROTO + ["loader", "ops/pixels"],
    "stream": PROTO + ["ops/pixels", "loader", "stream"],
    "ops": ["proto/base", "ops", "ops/pixels"],
    "kernels": ["proto/base", "ops/pixels", "ops", "kernels"],
    "trainer/weights": ["proto/base", "ops", "trainer/weights"],
    "trainer/model": ["proto/base", "ops", "trainer/model"],
    "trainer": TRAINER,
    "trainer/train": TRAINER + ["trainer/train"],
    "trainer/detect": TRAINER + ["trainer/detect"],
    "trainer/eval": TRAINER + ["trainer/detect", "trainer/eval"],
    "trainer/analysis": TRAINER + ["trainer/analysis"],
}
EXTRA = {"trainer/backend.c": ["kernels"]}
# programs that join parts which do not know each other
EXTRA["trainer/weights/convert_main.c"] = TRAINER
# images in any order, with their paths and the places of their crops: nothing of that travels
EXTRA["trainer/images.c"] = ["loader"]
# frames of a video, scenes with their labels: in order and as rectangles
EXTRA["trainer/eval/picture_file.c"] = ["loader"]

MAX_LINES = 800
GOOD_LINES = {".c": 400, ".cu": 400, ".h": 150}
GOOD_FUNCTION_LINES = 80
FORBIDDEN_WORDS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
FORBIDDEN_PATHS = re.compile(r"(/work/(main|shared)|/home/[a-z]+/|/root/)")
FORBIDDEN_NAMES = re.compile(r"(^|_)(utils?|common|misc|helpers?)(_|\.|$)|(?<!avx)(?<=[a-z])2\.[ch]$")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
SOURCE_ENDS = (".c", ".h", ".cu", ".cuh", ".cpp")


def tracked_files():
    """What git knows or would add; every file when this is no repository (a source archive)."""
    try:
        out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], check=True,
                             capture_output=True, text=True).stdout
        return sorted(path for path in set(out.splitlines()) if os.path.isfile(path))
    except (OSError, subprocess.CalledProcessError):
        found = []
        for folder, names, files in os.walk("."):
            names[:] = [n for n in names if not n.startswith((".", "build", "runs"))]
            found += [os.path.relpath(os.path.join(folder, f)) for f in files]
        return sorted(found)


def owner(path):
    """The folder of the table above that a file belongs to."""
    folder = os.path.dirname(path)
    while folder and folder not in ALLOWED and folder != "tests":
        folder = os.path.dirname(folder)
    return folder


def check_includes(path, text, files, errors):
    own = owner(path)
    includes = INCLUDE.findall(text)
    for name in includes:
        generated = name.endswith(".pb-c.h") or name == "kernels/interface.h"
        if "/" not in name or name.startswith("."):
            errors.append(f'{path}: #include "{name}" is not written from the root of the tree')
            continue
        if name not in files and not generated:
            errors.append(f'{path}: #include "{name}" names no file of the tree')
            continue
        if path.startswith("tests/"):
            continue
        if own == "":
            errors.append(f"{path}: lies in a folder that scripts/check_layout.py does not know")
            return includes
        target = os.path.dirname(name) if generated else owner(name)
        if target not in ALLOWED[own] + EXTRA.get(path, []):
            errors.append(f'{path}: {own} must not include {target or "the root"} ("{name}")')
    header = re.sub(r"\.cu?$", ".h", path)
    first = [header, header.replace(".h", "_internal.h")]
    has_header = header in files and path != header and owner(path) != "tests"
    if has_header and (includes + [""])[0] not in first:
        errors.append(f'{path}: its own header "{header}" must be the first include')
    return includes


def check_cycles(graph, errors):
    state = {}

    def visit(path, trail):
        state[path] = "open"
        for name in graph.get(path, []):
            if state.get(name) == "open":
                cycle = trail[trail.index(name):] + [name]
                errors.append("include cycle: " + " -> ".join(cycle))
            elif name not in state and name in graph:
                visit(name, trail + [name])
        state[path] = "done"

    for path in graph:
        if path not in state:
            visit(path, [path])


def check_guard(path, text, errors):
    guard = "IBOT_" + re.sub(r"[^A-Za-z0-9]", "_", path).upper()
    if f"#ifndef {guard}\n#define {guard}\n" not in text:
        errors.append(f"{path}: the include guard must be {guard}")


def check_lengths(path, text, errors, advice):
    lines = text.count("\n")
    end = os.path.splitext(path)[1]
    if lines > MAX_LINES:
        errors.append(f"{path}: {lines} lines; split it by concept (at most {MAX_LINES})")
    elif lines > GOOD_LINES.get(end, MAX_LINES):
        advice.append(f"{path}: {lines} lines; {GOOD_LINES[end]} is the aim")
    start = None
    for number, line in enumerate(text.splitlines(), 1):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            if number - start - 1 > GOOD_FUNCTION_LINES:
                advice.append(f"{path}:{start}: a function of {number - start - 1} lines; "
                              f"{GOOD_FUNCTION_LINES} is the aim")
            start = None


def check_words(path, text, errors):
    if path == "scripts/check_layout.py":
        return
    for number, line in enumerate(text.splitlines(), 1):
        for pattern in (FORBIDDEN_WORDS, FORBIDDEN_PATHS):
            match = pattern.search(line)
            if match:
                errors.append(f"{path}:{number}: '{match.group(0)}' does not belong in the tree")


def main():
    if sys.argv[1:] not in ([], ["--advice"]):
        print(__doc__, file=sys.stderr)
        return 2
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    files = tracked_files()
    known = set(files)
    errors, advice, graph = [], [], {}
    for path in files:
        if not path.startswith("tests/data/") and FORBIDDEN_NAMES.search(os.path.basename(path)):
            errors.append(f"{path}: the name says nothing about what is in it")
        if path.startswith(("tests/data/", "tests/fuzz/corpus/")) or path == "LICENSE":
            continue
        if not path.endswith(SOURCE_ENDS + (".py", ".sh", ".md", ".txt", ".cmake", ".yaml",
                                            ".proto", ".json")):
            continue
        with open(path, encoding="utf-8") as file:
            text = file.read()
        check_words(path, text, errors)
        if path.endswith(SOURCE_ENDS):
            graph[path] = check_includes(path, text, known, errors)
            check_lengths(path, text, errors, advice)
        if path.endswith((".h", ".cuh")):
            check_guard(path, text, errors)
    check_cycles({p: i for p, i in graph.items() if p.endswith((".h", ".cuh"))}, errors)

    if sys.argv[1:]:
        for line in advice:
            print(f"advice: {line}")
    for line in errors:
        print(f"layout: {line}", file=sys.stderr)
    print(f"layout: {len(graph)} source files, {len(errors)} errors, {len(advice)} pieces of advice")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
