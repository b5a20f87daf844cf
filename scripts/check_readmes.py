#!/usr/bin/env python3
"""What READMEs name is there: options of programs and scripts, by what --help says, files, recipes,
environment variables and metrics.

  scripts/check_readmes.py FOLDER    FOLDER: of the programs, build/bin
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Programs of others, whose options are not ours to know.
FOREIGN = ("cmake", "ctest", "git", "sbatch", "srun", "scontrol", "kubectl", "podman", "mpirun", "pip",
           "python3", "systemctl", "systemd-analyze", "apt-get", "clang-format", "compute-sanitizer",
           "nvcc", "nsys", "ncu", "perf", "tar", "cuobjdump")
# Options of others that stand alone.
FOREIGN_OPTIONS = {"ntasks-per-node", "mpi", "signal", "no-kill"}  # Slurm's
SOURCES = (".c", ".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".sbatch", ".cmake", "CMakeLists.txt")
# Sub-commands have a --help of their own; most programs list them in theirs.
SUB_COMMANDS = {"ibot-convert": ("inspect", "diff")}
OPTION = re.compile(r"(?<![\w-])--([A-Za-z][\w-]*)")


def files_of(*ends):
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "build", "runs")))
        for file in sorted(files):
            if file.endswith(ends):
                yield os.path.join(folder, file)


def words_of_sources():
    """Names of variables and metrics that the sources have."""
    words = set()
    for path in files_of(*SOURCES):
        with open(path, encoding="utf-8", errors="replace") as file:
            words.update(re.findall(r"\b(?:IBOT|ibot)_\w+", file.read()))
    return words


def help_of(command):
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL)
    return done.stdout + done.stderr if done.returncode == 0 else ""


def canonical(option):
    return option.replace("_", "-")


class Programs:
    """Name of a program or script, and the options that its --help names."""

    def __init__(self, folder):
        self.options, self.helpless = {}, []
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if name.startswith("ibot-") or name.endswith("_bench") or name.startswith("golden_"):
                if not name.endswith(("-emulated", "-queued")) and os.access(path, os.X_OK):
                    self.add(name, [path])
        scripts = os.path.join(ROOT, "scripts")
        for name in sorted(os.listdir(scripts)):
            if name.endswith(".sh"):
                self.add(name, ["bash", os.path.join(scripts, name)])
            elif name.endswith(".py"):
                with open(os.path.join(scripts, name), encoding="utf-8") as file:
                    self.options[name] = {canonical(o) for o in OPTION.findall(file.read())}

    def add(self, name, command):
        text = help_of(command)
        ours = name.startswith("ibot-") or name.endswith(".sh")
        if ours and (not text or re.search(r"^(set -|case )", text, re.MULTILINE)):
            self.helpless.append(name)
        listed = re.findall(r"^  (\w+) ", text.partition("\nCommands:\n")[2], re.MULTILINE)
        for sub in SUB_COMMANDS.get(name, listed):
            own = help_of([*command, sub])
            self.options[f"{name} {sub}"] = {canonical(o) for o in OPTION.findall(own)}
            text += own
        self.options[name] = {canonical(o) for o in OPTION.findall(text)}

    def all(self):
        return set().union(*self.options.values())


def pieces(text):
    """Command lines of fenced blocks, and what stands between backticks, with the line they are in."""
    fenced, lines, number = False, text.split("\n"), 0
    while number < len(lines):
        line, first = lines[number], number + 1
        number += 1
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        if not fenced:
            # a span may go over the end of a line
            joined = line + (" " + lines[number] if line.count("`") % 2 and number < len(lines) else "")
            for span in re.findall(r"`([^`]+)`", joined):
                yield first, span
            continue
        while line.endswith("\\") and number < len(lines):
            line = line[:-1] + lines[number]
            number += 1
        yield first, line.split(" # ")[0]


def commands_in(piece, programs):
    """(program, what follows it) for each command of a line; program is None where none is named."""
    for part in re.split(r"\s(?:&&|\|\||;|\|)\s", piece):
        words = part.split()
        name, start = None, 0
        for i, word in enumerate(words):
            base = os.path.basename(word)
            if name and f"{name} {word}" in programs:
                name = f"{name} {word}"
            elif base in FOREIGN or base in programs:
                name, start = base, i  # the last one: mpirun … ibot-train …
                if base == "kubectl":
                    break
        yield name, " ".join(words[start:])


def check(path, programs, known, words, failures):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    where = os.path.relpath(path, ROOT)
    for number, piece in pieces(text):
        for name, part in commands_in(piece, programs.options):
            if name in FOREIGN:
                continue
            options = programs.options.get(name, known)
            for option in OPTION.findall(part):
                if canonical(option) not in options and (name or option not in FOREIGN_OPTIONS):
                    failures.append(f"{where}:{number}: {name or 'no program'} has no option --{option}")
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+\.(c|h|cu|cuh|cpp|md|py|sh|yaml|proto|json|txt|safetensors)", piece):
            places = (ROOT, os.path.dirname(path))
            if not any(os.path.exists(os.path.join(place, piece)) for place in places):
                if not piece.startswith(("runs/", "build/", "checkpoints/")) and "/x." not in piece:
                    failures.append(f"{where}:{number}: no file '{piece}'")
        for recipe in re.findall(r"--recipe[ =](\w+)", piece):
            folders = ("trainer/recipes", "trainer/recipes/finetune", "trainer/recipes/segment")
            if recipe != "NAME" and not any(os.path.exists(f"{ROOT}/{f}/{recipe}.yaml") for f in folders):
                failures.append(f"{where}:{number}: no recipe '{recipe}'")
        for word in re.findall(r"\bIBOT_[A-Z0-9_]+\b|\bibot_(?:train|loader|consumer)_\w+", piece):
            if re.sub(r"_(sum|count|bucket)$", "", word) in words or word in words:
                continue
            if canonical(word[len("IBOT_"):].lower()) not in known:
                failures.append(f"{where}:{number}: nothing knows {word}")


def main():
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        print(__doc__, file=sys.stderr)
        return 2
    programs = Programs(sys.argv[1])
    failures = [f"{name} --help: fails, or shows code" for name in programs.helpless]
    known, words, n = programs.all(), words_of_sources(), 0
    for path in files_of("README.md"):
        check(path, programs, known, words, failures)
        n += 1
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{n} READMEs against {len(programs.options)} programs and scripts, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
