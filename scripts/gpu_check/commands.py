"""Commands with a deadline: run in a process group of their own, so that nothing outlives it; their
output goes to one log."""
import os
import re
import signal
import subprocess
import tempfile
import threading
import time


class Result:
    def __init__(self, code, seconds, timed_out, output):
        self.code, self.seconds, self.timed_out, self.output = code, seconds, timed_out, output

    def reason(self):
        """Why it failed: the last line that says something."""
        if self.timed_out:
            return "ran past its %.0f s" % self.seconds
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        marked = [line for line in lines if re.search(r"\b(error|FAIL\w*)\b|^[\w./-]+: ", line, re.I)]
        last = (marked or lines or ["no output"])[-1]
        return "exit status %d: %s" % (self.code, last[:300])


class Commands:
    def __init__(self, log_path, deadline):
        self.log = open(log_path, "a", encoding="utf-8")
        self.deadline = deadline
        self.children = set()
        self.lock = threading.Lock()

    def left(self):
        return self.deadline - time.monotonic()

    def start(self, argv, env=None, cwd=None, output=None):
        child = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL,
                                 stdout=output or subprocess.PIPE, stderr=subprocess.STDOUT,
                                 env=dict(os.environ, **(env or {})), cwd=cwd,
                                 start_new_session=True)
        self.children.add(child)
        return child

    def stop(self, child, grace=5.0):
        """Ends the whole group: asked first, then killed."""
        for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            if child.poll() is not None:
                break
            try:
                os.killpg(child.pid, number)
            except ProcessLookupError:
                pass
            try:
                child.wait(wait)
            except subprocess.TimeoutExpired:
                pass
        try:  # what the leader left behind
            os.killpg(child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self.children.discard(child)

    def stop_all(self):
        for child in list(self.children):
            self.stop(child, 1.0)

    def run(self, argv, seconds, env=None, cwd=None):
        """At most `seconds`, and never past the deadline."""
        limit = max(0.0, min(seconds, self.left()))
        start = time.monotonic()
        with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as output:
            try:
                child = self.start(argv, env, cwd, output)
            except OSError as error:
                return Result(127, 0.0, False, "%s: %s" % (argv[0], error.strerror))
            timed_out = False
            try:
                child.wait(limit)
            except subprocess.TimeoutExpired:
                timed_out = True
            self.stop(child)
            output.seek(0)
            text = output.read()
        took = time.monotonic() - start
        with self.lock:
            self.log.write("$ %s\n%s[exit status %s, %.1f s%s]\n\n" % (
                " ".join(str(word) for word in argv), text, child.returncode, took,
                ", ran past its time" if timed_out else ""))
            self.log.flush()
        return Result(124 if timed_out else child.returncode, took, timed_out, text)
