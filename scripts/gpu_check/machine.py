"""What machine this is: GPU, driver, versions; where Python's wheels keep CUDA's libraries."""
import json
import os
import platform
import re
import shutil
import subprocess


def output_of(argv, seconds=60):
    """Its standard output, or None."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def find_gpu():
    """(facts, None) or (None, why there is none)."""
    if shutil.which("nvidia-smi") is None and os.path.exists("/usr/local/nvidia/bin/nvidia-smi"):
        os.environ["PATH"] += os.pathsep + "/usr/local/nvidia/bin"
    if shutil.which("nvidia-smi") is None:
        return None, "nvidia-smi is not on the PATH: is a driver installed?"

    def query(keys):
        text = output_of(["nvidia-smi", "--query-gpu=" + ",".join(keys.values()),
                          "--format=csv,noheader,nounits"])
        rows = [line.split(", ") for line in (text or "").splitlines() if line.strip()]
        return [dict(zip(keys, row)) for row in rows if len(row) == len(keys)]

    gpus = query({"name": "name", "compute_capability": "compute_cap", "memory_mib": "memory.total",
                  "driver": "driver_version"})
    if not gpus:
        return None, "nvidia-smi lists no GPU"
    facts = dict(gpus[0], count=len(gpus))
    # not every driver tells these
    for more in ({"power_limit_w": "power.limit"}, {"max_sm_mhz": "clocks.max.sm"},
                 {"max_memory_mhz": "clocks.max.memory"}):
        facts.update((query(more) or [{}])[0])
    return facts, None


def chip(gpu):
    """H200 of NVIDIA H200, H100-80GB-HBM3 of NVIDIA H100 80GB HBM3: for a file's name."""
    name = re.sub(r"^(NVIDIA|Tesla)\s+", "", gpu["name"] if gpu else "none")
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


WHEELS = """
import json, os, importlib.metadata as m
found = {}
for d in m.distributions():
    name = (d.metadata["Name"] or "").lower()
    if name in ("torch", "timm", "triton", "numpy", "torchvision") or name.startswith("nvidia-"):
        found[name] = d.version
folders = []
import sys
for base in sys.path:
    nvidia = os.path.join(base, "nvidia")
    if os.path.isdir(nvidia):
        for name in sorted(os.listdir(nvidia)):
            folder = os.path.join(nvidia, name)
            if os.path.isdir(os.path.join(folder, "lib")):
                folders.append(folder)
print(json.dumps([found, folders]))
"""


def python_wheels(python):
    """Versions of PyTorch and CUDA's wheels, and the folders that hold include/ and lib/."""
    try:
        return json.loads(output_of([python, "-c", WHEELS]) or "[{}, []]")
    except ValueError:
        return {}, []


def first_match(argv, pattern):
    found = re.search(pattern, output_of(argv) or "", re.M)
    return found.group(1) if found else None


def versions(python, wheels):
    found = {
        "nvcc": first_match(["nvcc", "--version"], r"release [^V]*V([0-9.]+)"),
        "cmake": first_match(["cmake", "--version"], r"version ([0-9.]+)"),
        "cxx": (output_of(["c++", "--version"]) or "").split("\n")[0] or None,
        "python": first_match([python, "--version"], r"([0-9.]+)"),
        "c_library": " ".join(platform.libc_ver()),
    }
    found.update(wheels)
    return {key: value for key, value in sorted(found.items()) if value}


TOOLS = ("compute-sanitizer", "cuobjdump", "ncu", "nsys")


def tools():
    """Where NVIDIA's tools are on this machine, or None: the first is used here, the others tell what
    else could be asked of it."""
    folder = os.path.dirname(shutil.which("nvcc") or "")
    return {name: shutil.which(name) or shutil.which(name, path=folder) for name in TOOLS}


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def facts(gpu):
    system = None
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            system = re.search(r'^PRETTY_NAME="?([^"\n]*)', file.read(), re.M).group(1)
    except (OSError, AttributeError):
        pass
    return {"gpu": gpu, "cpu": processor(), "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(), "system": system}


def nvcc_on_path():
    """The toolkit's usual folder is tried too."""
    if shutil.which("nvcc") is None:
        for folder in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
            if folder and os.path.exists(os.path.join(folder, "bin", "nvcc")):
                os.environ["PATH"] = os.path.join(folder, "bin") + os.pathsep + os.environ["PATH"]
                break
    return shutil.which("nvcc")
