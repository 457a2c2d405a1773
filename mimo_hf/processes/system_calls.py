"""The system calls that programs in a sandbox are refused, as a seccomp filter made by libseccomp."""

import errno
import functools
import os
import socket

# Nothing that solves a problem or builds a package needs these; some reach what outlives a program, others are new to most reviews.
REFUSED = {
    "keys of the kernel": ("add_key", "keyctl", "request_key"),
    "shared memory, semaphores and queues that outlive a program, and pass its limit of memory": (
        "shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv", "msgctl",
        "mq_open", "mq_unlink",
    ),
    "namespaces and mounts": (
        "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount",
        "open_tree",
    ),
    "other processes": ("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "move_pages", "migrate_pages", "ioprio_set"),
    "wide doors into the kernel": (
        "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "fanotify_init",
        "open_by_handle_at", "name_to_handle_at", "modify_ldt", "lookup_dcookie", "vmsplice", "nfsservctl", "uselib", "ustat", "sysfs",
    ),
    "the machine": (
        "acct", "quotactl", "reboot", "swapon", "swapoff", "syslog", "kexec_load", "kexec_file_load", "init_module", "finit_module",
        "delete_module", "iopl", "ioperm", "clock_settime", "clock_adjtime", "settimeofday", "adjtimex", "sethostname", "setdomainname",
        "vhangup",
    ),
}  # fmt: skip
CLONE_NEW = (1 << 7, 1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)  # what makes `clone` an `unshare`
# Calls in which these arguments must be 0: the process that calls, and PRIO_PROCESS.
OWN_ONLY = {
    "prlimit64": (0,), "setpriority": (0, 1), "sched_setaffinity": (0,), "sched_setattr": (0,),
    "sched_setparam": (0,), "sched_setscheduler": (0,),
}  # fmt: skip
TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # words put into somebody's terminal


@functools.cache
def system_call_filter(families: tuple[int, ...] = (socket.AF_UNIX,), own_only: bool = True) -> bytes:
    """
    BPF for seccomp's filter mode, and for bubblewrap's --seccomp. Calls of another architecture end the process.

    Args:
        families: of the sockets that a program may open.
        own_only: a process may set limits and priorities of no other: those of a server would outlast the program.

    Raises:
        OSError: the package pyseccomp or the library libseccomp is not there.
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError) as error:
        raise OSError(
            f"the filter of system calls can't be made ({error}): it needs pyseccomp (pip install pyseccomp) and libseccomp "
            "(apt-get install libseccomp2)."
        ) from error
    calls = seccomp.SyscallFilter(seccomp.ALLOW)
    refuse = seccomp.ERRNO(errno.EPERM)
    for name in (name for names in REFUSED.values() for name in names):
        calls.add_rule(refuse, name)
    # The flags lie in memory, where a filter can't look; told that it is missing, libraries use clone.
    calls.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    for flag in CLONE_NEW:
        calls.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    for request in (TIOCSTI, TIOCLINUX):
        calls.add_rule(refuse, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
    for name, places in OWN_ONLY.items() if own_only else ():
        for place in places:
            calls.add_rule(refuse, name, seccomp.Arg(place, seccomp.NE, 0))
    no_family = seccomp.ERRNO(errno.EAFNOSUPPORT)
    for call in ("socket", "socketpair"):
        allowed = sorted(families)
        calls.add_rule(no_family, call, seccomp.Arg(0, seccomp.LT, allowed[0]))
        calls.add_rule(no_family, call, seccomp.Arg(0, seccomp.GT, allowed[-1]))
        for family in range(allowed[0], allowed[-1]):
            if family not in allowed:
                calls.add_rule(no_family, call, seccomp.Arg(0, seccomp.EQ, family))
    with open(os.memfd_create("filter"), "w+b") as exported:
        calls.export_bpf(exported)
        exported.seek(0)
        return exported.read()
