"""The filter of system calls, run instruction by instruction on every kind of argument."""

import errno
import itertools
import platform
import socket
import struct
import sys

import pytest

from mimo_hf.processes.system_calls import CLONE_NEW, OWN_ONLY, REFUSED, TIOCLINUX, TIOCSTI, system_call_filter

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in AUDIT, reason="runs filters of x86-64 and ARM64 Linux only"
)
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, JUMP, AND, RETURN = 0x20, 0x05, 0x54, 0x06
TESTS = {
    0x15: lambda a, k: a == k,
    0x25: lambda a, k: a > k,
    0x35: lambda a, k: a >= k,
    0x45: lambda a, k: bool(a & k),
}
WORDS = [0, 1, 2, 3, 10, 16, 17, 40, TIOCSTI, TIOCLINUX, 1 << 31, 0xFFFFFFFF, *CLONE_NEW]
HALVES = [
    0,
    1,
    1 << 31,
    0xFFFFFFFF,
]  # of 64 bits, of which the kernel drops the upper ones where an argument is an int


def verdict(program, number, arguments):
    """What the kernel would do: classic BPF has these instructions, and seccomp gives it this record."""
    record = struct.pack("<iIQ6Q", number, AUDIT[platform.machine()], 0, *arguments)
    place = value = 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("<HBBI", program, 8 * place)
        place += 1
        if code == LOAD:
            (value,) = struct.unpack_from("<I", record, operand)
        elif code == AND:
            value &= operand
        elif code == JUMP:
            place += operand
        elif code == RETURN:
            return operand
        else:
            place += if_true if TESTS[code](value, operand) else if_false


def number_of(name):
    import pyseccomp

    return pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)


def values():
    return [high << 32 | low for high, low in itertools.product(HALVES, WORDS)]


def at(place, value):
    return [value if index == place else 0 for index in range(6)]


@pytest.mark.parametrize("families", [(socket.AF_UNIX,), (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)])
@pytest.mark.parametrize("name", ["socket", "socketpair"])
def test_a_socket_of_another_family_is_refused_whatever_its_upper_bits(name, families):
    program, number = system_call_filter(families), number_of(name)
    for value in values():
        given = verdict(program, number, at(0, value))
        assert given == (ALLOW if value in families else ERRNO | errno.EAFNOSUPPORT), hex(value)


def test_clone_makes_processes_and_no_namespaces():
    program, number = system_call_filter(), number_of("clone")
    masks = [*values(), *(0x11 | flag for flag in CLONE_NEW), 0x11, 0x3D0F00, *(1 << bit for bit in range(64))]
    for value in masks:
        expected = ERRNO | errno.EPERM if any(value & flag for flag in CLONE_NEW) else ALLOW
        assert verdict(program, number, at(0, value)) == expected, hex(value)


def test_no_words_go_into_a_terminal():
    program, number = system_call_filter(), number_of("ioctl")
    for value in values():
        expected = ERRNO | errno.EPERM if value & 0xFFFFFFFF in (TIOCSTI, TIOCLINUX) else ALLOW
        assert verdict(program, number, at(1, value)) == expected, hex(value)


@pytest.mark.parametrize("name", OWN_ONLY)
@pytest.mark.parametrize("own_only", [False, True])
def test_limits_and_priorities_are_set_of_the_own_process_only(name, own_only):
    program, number = system_call_filter(own_only=own_only), number_of(name)
    for first, second in itertools.product([0, 1, 7, 1 << 32, 0xFFFFFFFF], repeat=2):
        arguments = [first, second, 0, 0, 0, 0]
        other = own_only and any(arguments[place] for place in OWN_ONLY[name])
        assert verdict(program, number, arguments) == (ERRNO | errno.EPERM if other else ALLOW), (first, second)


def test_calls_are_refused_by_name_and_others_allowed():
    program = system_call_filter()
    known = {name: number_of(name) for names in REFUSED.values() for name in names}
    there = {name: number for name, number in known.items() if number >= 0}  # the others are calls of other machines
    assert len(there) > 50
    for argument in (0, (1 << 64) - 1):
        for name, number in there.items():
            assert verdict(program, number, [argument] * 6) == ERRNO | errno.EPERM, name
        for name in ("read", "write", "openat", "mmap", "futex", "execve", "exit_group"):
            assert verdict(program, number_of(name), [argument] * 6) == ALLOW, name
    assert verdict(program, number_of("clone3"), [0] * 6) == ERRNO | errno.ENOSYS
