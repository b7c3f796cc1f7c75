"""Block devices in files, whose writes are written down, or fail.

It owns the process that makes them, qemu-storage-daemon, and the form of the record of writes,
which is that of dm-log-writes. What is written to the device, and why, it does not know.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import struct
import subprocess

from media import NotAllowed

SECTOR, BLOCK = 512, 4096
FLUSH, DISCARD = 1, 4
# Where the record has the number of its entries.
COUNT_AT = 16
EIO = 5
# FS_IOC_FIEMAP, the bytes before the extents that it gives, and those of an extent.
FIEMAP, FIEMAP_HEAD, EXTENT = 0xC020660B, 32, 56
EXTENTS_MAX = 512


def make_image(path, mib):
    """An empty ext4 that is as good as it will ever be: nothing of it is made later."""
    with open(path, "wb") as file:
        file.truncate(mib << 20)
    lazy = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", str(BLOCK), "-E", lazy, path], check=True)


class Device:
    """A file that stands for a block device, and the process that serves it."""

    def __init__(self, directory, nodes):
        self.path = os.path.join(directory, "device")
        open(self.path, "wb").close()
        export = {"type": "fuse", "id": "device", "node-name": nodes[-1]["node-name"]}
        export |= {"mountpoint": self.path, "writable": True}
        command = ["qemu-storage-daemon"]
        for node in nodes:
            command += ["--blockdev", json.dumps(node)]
        command += ["--export", json.dumps(export)]
        command += ["--chardev", "stdio,id=us", "--monitor", "chardev=us"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # Who interrupts us must not end it, too, before what is mounted on it is gone.
        self.process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
        try:
            self.ask("qmp_capabilities")
        except OSError:
            self.close()
            raise NotAllowed(self.process.stderr.read().strip()) from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ask(self, command, **arguments):
        """Has the process do something, and waits until it is done."""
        words = json.dumps({"execute": command, "arguments": arguments})
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            answer = json.loads(line)
            if "error" in answer:
                raise OSError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return
        raise OSError(f"{command}: qemu-storage-daemon has ended")

    def close(self):
        with contextlib.suppress(OSError):
            self.ask("quit")
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        subprocess.run(["umount", "-q", self.path], check=False, stderr=subprocess.DEVNULL)


def recorded(directory, image, record):
    """A device on an image, of which each write is written down."""
    return Device(
        directory,
        [
            {"driver": "file", "node-name": "image", "filename": image},
            {"driver": "file", "node-name": "record", "filename": record.path},
            {
                "driver": "blklogwrites",
                "node-name": "top",
                "file": "image",
                "log": "record",
                "log-sector-size": SECTOR,
            },
        ],
    )


class Failing(Device):
    """A device on an image, which does not take writes to some of its blocks for a time."""

    def __init__(self, directory, image):
        nodes = [{"driver": "file", "node-name": "image", "filename": image}]
        nodes += [{"driver": "raw", "node-name": "top", "file": "image"}]
        super().__init__(directory, nodes)
        self.image = image

    def fail(self, places):
        """From now on no write is taken that has one of these bytes in it."""
        rule = {"event": "none", "iotype": "write", "errno": EIO}
        rules = [{**rule, "sector": place // SECTOR} for place in places]
        node = {"driver": "blkdebug", "node-name": "bad", "image": "image", "inject-error": rules}
        self.ask("blockdev-add", **node)
        self.lead_to("bad")

    def heal(self):
        self.lead_to("image")
        self.ask("blockdev-del", **{"node-name": "bad"})

    def lead_to(self, node):
        options = {"driver": "raw", "node-name": "top", "file": node}
        self.ask("blockdev-reopen", options=[options])


@dataclasses.dataclass(frozen=True)
class Entry:
    """A write, or a flush."""

    begin: int
    length: int
    # Where the record has the bytes.
    at: int
    flags: int

    @property
    def is_flush(self):
        return bool(self.flags & FLUSH)


class Record:
    """What was written to a device, in the order in which it was done."""

    def __init__(self, path):
        self.path, self.handle = path, os.open(path, os.O_RDONLY | os.O_CREAT)

    def close(self):
        os.close(self.handle)

    def count(self):
        """How many entries there were at least when the last flush was done."""
        return int.from_bytes(os.pread(self.handle, 8, COUNT_AT), "little")

    def entries(self):
        at, found = SECTOR, []
        for _ in range(self.count()):
            head = os.pread(self.handle, 32, at)
            sector, sectors, flags, _ = struct.unpack("<4Q", head)
            length = 0 if flags & DISCARD else sectors * SECTOR
            found.append(Entry(sector * SECTOR, length, at + SECTOR, flags))
            at += SECTOR + length
        return found

    def is_blank(self, entry):
        """Whether it has nothing but zeros."""
        return os.pread(self.handle, entry.length, entry.at).count(0) == entry.length

    def put(self, image, entry, part=1.0):
        """Writes an entry, or a part of what it changes, to an image that stays sparse."""
        data = os.pread(self.handle, entry.length, entry.at)
        if part < 1:
            data = data[: torn_length(data, os.pread(image, entry.length, entry.begin), part)]
        if data.count(0) < len(data) or not is_hole(image, entry.begin, len(data)):
            os.pwrite(image, data, entry.begin)


def torn_length(new, old, part):
    """How much of a write is done when so large a part of the sectors that it changes is."""
    ends = range(SECTOR, len(new) + 1, SECTOR)
    changed = [end for end in ends if new[end - SECTOR : end] != old[end - SECTOR : end]]
    return changed[int(part * len(changed))] - SECTOR if changed else 0


def is_hole(file, begin, length):
    try:
        return os.lseek(file, begin, os.SEEK_DATA) >= begin + length
    except OSError:
        # There is nothing from there on.
        return True


def copy(path, to):
    subprocess.run(["cp", "--sparse=auto", path, to], check=True)


def places(path):
    """Where a device has the blocks of a file, in the order of the file."""
    request = bytearray(struct.pack("<QQIIII", 0, 2**64 - 1, 0, 0, EXTENTS_MAX, 0))
    request += bytes(EXTENTS_MAX * EXTENT)
    with open(path, "rb") as file:
        fcntl.ioctl(file.fileno(), FIEMAP, request)
    (count,) = struct.unpack_from("<I", request, 20)
    found = {}
    for number in range(count):
        at = FIEMAP_HEAD + number * EXTENT
        logical, physical, length = struct.unpack_from("<QQQ", request, at)
        for offset in range(0, length, BLOCK):
            found[logical + offset] = physical + offset
    return found
