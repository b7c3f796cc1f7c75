"""A copy of the tree, in which defects can be planted and seen."""

import contextlib
import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Workshop:
    """A copy of the tree, where defects are planted, and what is built of it."""

    def __init__(self, number):
        place = ROOT / "target" / "mutations"
        # Two trees would take each other's generated code from one directory.
        self.tree, self.build = place / f"tree-{number}", place / f"build-{number}"
        self.copy()
        if not self.build.exists():
            self.begin_build()

    def copy(self):
        """Copies what is under version control. Files that did not change keep their times, so
        that building goes on from the last run."""
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
        names = [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
        for name in names:
            source, target = ROOT / name, self.tree / name
            if not target.exists() or target.read_bytes() != source.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        kept = {self.tree / name for name in names}
        for path in [path for path in self.tree.rglob("*") if path.is_file()]:
            if path not in kept:
                path.unlink()

    def begin_build(self):
        """Takes over what others wrote, and is built the same way in every tree. What is built of
        this crate is named by the place of its tree, and what a build that runs beside this is
        about to write goes away again."""
        for part in ("deps", "build", ".fingerprint"):
            built = ROOT / "target" / "debug" / part
            if built.exists():
                ours = shutil.ignore_patterns("*daybook-*", "it-*", "rmeta*")
                shutil.copytree(built, self.build / "debug" / part, symlinks=True, ignore=ours)

    @contextlib.contextmanager
    def planted(self, *defects):
        """Has defects in the tree meanwhile: in a file, what is wrong in place of what is right."""
        texts = {}
        try:
            for defect in defects:
                path = self.tree / defect["file"]
                text = path.read_text()
                texts.setdefault(path, text)
                if text.count(defect["right"]) != 1:
                    raise LookupError(f"{defect['file']} has not exactly one such place")
                path.write_text(text.replace(defect["right"], defect["wrong"]))
            yield
        finally:
            for path, text in texts.items():
                path.write_text(text)

    def cargo(self, command, *arguments, seconds=None, **variables):
        """Runs a command of cargo. Gives whether it succeeded, and its output."""
        # Nobody debugs what is built here.
        settings = {"CARGO_PROFILE_DEV_DEBUG": "false", "CARGO_PROFILE_TEST_DEBUG": "false"}
        settings |= {"CARGO_TARGET_DIR": str(self.build)} | variables
        command = ["cargo", command, "--locked", *arguments]
        try:
            done = subprocess.run(
                command,
                cwd=self.tree,
                env={**os.environ, **settings},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return False, "test result: it does not end"
        return done.returncode == 0, done.stdout
