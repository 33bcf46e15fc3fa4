"""What execve(2) and a change of user ids make of a thread's rights: the rules of the kernel, with their numbers.

Pure: who calls, what is executed and what of the host counts come in as data (nstool.inspect.execution reads them).
capabilities(7), execve(2), prctl(2), credentials(7); security/commoncap.c and fs/exec.c of Linux. Not modelled:
security modules such as SELinux, limits (RLIMIT_NPROC), what a seccomp filter refuses.
"""

from __future__ import annotations

import stat
from errno import EACCES, EINVAL, EPERM, errorcode

from nstool import uapi
from nstool.frozen import Frozen
from nstool.security import capabilities, idmap, securebits
from nstool.security.access import EXECUTE, READ, Inode, may
from nstool.security.credentials import Credentials, Ids
from nstool.security.filecaps import FileCaps, to_text

# The effective capabilities that follow the filesystem user id between 0 and others. capabilities(7).
FS_SET = capabilities.mask(
    (
        *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "linux_immutable", "mac_override"),
        "mknod",
    )
)


class Process(Credentials):
    """The thread that calls execve(2), and its surroundings.

    shares_fs: one that is not a thread of its process shares its root, working directory and umask: clone(2), CLONE_FS.
    tracer: "", or whether who traces it has CAP_SYS_PTRACE over its user namespace: "capable" or "incapable".
    """

    no_new_privs: bool = False
    shares_fs: bool = False
    tracer: str = ""


class File(Inode):
    """A file as execve(2) looks at it. uid, gid and root id: as the reader's.

    caps: its capabilities; caps_error: why the kernel cannot take them, EINVAL, or 0. nosuid, noexec: of its mount.
    foreign: the mount is of another mount namespace than the thread's, as through /proc/PID/root or of a memfd.
    outside: the filesystem belongs to a user namespace that the thread is not in. directories: on its path.
    """

    path: str = ""
    caps: FileCaps | None = None
    caps_error: int = 0
    nosuid: bool = False
    noexec: bool = False
    foreign: bool = False
    outside: bool = False
    directories: tuple[Inode, ...] = ()


class Program(Frozen):
    """What one execve(2) opens. files: in the order of the kernel: the file, the interpreter of each "#!" line.

    loader: the dynamic loader that the last one names (ld.so). error, why: how it fails once all these are opened:
    ENOEXEC for a format that is not known, ELOOP, ENOENT ...; 0 if it does not. source: whose set-user-ID bits and
    capabilities count, -1 for the last, 0 with the flag C of binfmt_misc.
    """

    files: tuple[File, ...]
    loader: File | None = None
    error: int = 0
    why: str = ""
    source: int = -1


class System(Frozen):
    """What of the host counts. suid_dumpable: of /proc/sys/fs. file_caps: it was not booted with no_file_caps.

    release: (major, minor) of the kernel. Since 6.17 an id counts as changed by execve(2) when the new effective id is
    not the old effective one; before, when it was not the real one.
    """

    last_cap: int = uapi.CAP_LAST_CAP
    suid_dumpable: int = 0
    file_caps: bool = True
    release: tuple[int, int] = (6, 18)


class Rule(Frozen):
    """A rule that decided something. formula: as capabilities(7) writes it. numbers: the same with what is here."""

    name: str
    formula: str
    numbers: str


class Prediction(Frozen):
    """What comes of it. after: None when it fails; then error is the errno and why says for what reason.

    secure: AT_SECURE, which makes ld.so ignore LD_PRELOAD and the like. dumpable: as PR_GET_DUMPABLE tells, None where
    it stays as it is. death_signal: whether that of PR_SET_PDEATHSIG stays set. path: the file that was decisive, whose
    bits and capabilities count or which cannot be executed.
    """

    before: Process
    after: Process | None
    rules: tuple[Rule, ...]
    error: int = 0
    why: str = ""
    secure: bool = False
    dumpable: int | None = None
    death_signal: bool = True
    path: str = ""

    @property
    def errno_name(self) -> str:
        """The symbolic errno, as EPERM; empty if it succeeds."""
        return errorcode.get(self.error, "")


def predict(process: Process, program: Program, system: System = System()) -> Prediction:  # noqa: B008
    """Return what execve(2) of the program does to the thread."""
    for file in (*program.files, *((program.loader,) if program.loader else ())):
        if why := _not_executable(process, file):
            return Prediction(process, None, (), EACCES, why, path=file.path)
    file = program.files[program.source]
    if program.error:
        return Prediction(process, None, (), program.error, program.why, path=program.files[-1].path)
    read = {program.files[-1], file} | ({program.loader} if program.loader else set())
    unreadable = sorted(f.path for f in read if not may(process, f, READ))
    return _Execve(process, file, system).run(unreadable)


def _not_executable(process: Process, file: File) -> str:
    for directory in file.directories:
        if not may(process, directory, EXECUTE):
            return f"{file.path}: a directory on the way may not be searched, mode {stat.S_IMODE(directory.mode):04o}"
    if not stat.S_ISREG(file.mode):
        return f"{file.path} is no regular file"
    if file.noexec:
        return f"{file.path} is on a mount that is noexec"
    if not may(process, file, EXECUTE):
        return f"{file.path} may not be executed: mode {stat.S_IMODE(file.mode):04o}, owner {file.uid}:{file.gid}"
    return ""


class _Execve:
    # One execve, in the order of the kernel: first the ids, then the sets, then what follows from both.

    def __init__(self, process: Process, file: File, system: System) -> None:
        self.old = process
        self.file = file
        self.system = system
        self.full = capabilities.full(system.last_cap)
        self.rules: list[Rule] = []
        self.uid, self.gid = process.uids.real, process.gids.real
        self.euid, self.egid = process.uids.effective, process.gids.effective
        self.effective = False  # the effective bit of the file
        self.has_caps = False
        self.gain = 0  # P'(permitted) before the ambient set is added
        self.gain_formula = "0"
        self.gain_numbers = "0x0"

    def run(self, unreadable: list[str]) -> Prediction:
        self.trusted = self.set_trusted()
        self.set_ids()
        error, why = self.set_file_caps()
        if error:
            return Prediction(self.old, None, tuple(self.rules), error, why, path=self.file.path)
        self.set_root()
        changed = self.downgrade()
        after = self.result(changed)
        secure = self.secure(after, changed)
        escalated = _escalated(self.old, after)
        dumpable = self.dumpable(escalated, unreadable)
        return Prediction(
            self.old,
            after,
            tuple(self.rules),
            secure=secure,
            dumpable=dumpable,
            death_signal=not (secure or escalated),
            path=self.file.path,
        )

    def rule(self, name: str, formula: str, numbers: str) -> None:
        self.rules.append(Rule(name, formula, numbers))

    def say(self, mask: int) -> str:
        return say(mask, self.full)

    def set_trusted(self) -> bool:
        # Whether set-user-ID and set-group-ID bits and file capabilities count at all. mnt_may_suid, fs/namespace.c.
        reasons = (
            (self.file.nosuid, "its mount is nosuid"),
            (self.file.foreign, "its mount is of another mount namespace"),
            (self.file.outside, "its filesystem belongs to a user namespace that the process is not in"),
        )
        why = " and ".join(text for true, text in reasons if true)
        bits = self.file.mode & (stat.S_ISUID | stat.S_ISGID) or self.file.caps
        if why and bits:
            self.rule(
                "nosuid", "F(set-user-ID) = F(set-group-ID) = 0, F(capabilities) = none", f"{self.file.path}: {why}"
            )
        return not why

    def set_ids(self) -> None:
        file, old = self.file, self.old
        mode = stat.S_IMODE(file.mode)
        suid = mode & stat.S_ISUID
        sgid = mode & stat.S_ISGID and mode & stat.S_IXGRP  # without it the bit meant mandatory locking
        if not self.trusted or not (mode & (stat.S_ISUID | stat.S_ISGID)):
            return
        numbers = f"mode {mode:04o}, owner {file.uid}:{file.gid}"
        if old.no_new_privs:
            self.rule("no_new_privs", _NO_IDS, f"no_new_privs is set; {numbers}")
            return
        if not old.maps(file.uid, file.gid):
            self.rule("unmapped ids", _NO_IDS, f"the user namespace of the process does not map both ids; {numbers}")
            return
        if suid:
            self.euid = file.uid
            self.rule("set-user-ID", "P'(euid) = F(owner)", f"P'(euid) = {self.euid} ({numbers})")
        if sgid:
            self.egid = file.gid
            self.rule("set-group-ID", "P'(egid) = F(group)", f"P'(egid) = {self.egid} ({numbers})")

    def set_file_caps(self) -> tuple[int, str]:
        file, old = self.file, self.old
        if not self.trusted or not (file.caps or file.caps_error):
            return 0, ""
        if not self.system.file_caps:
            self.rule("no_file_caps", "F(capabilities) = none", "the kernel was booted with no_file_caps")
            return 0, ""
        if file.caps_error or not file.caps:
            return file.caps_error, f"{file.path}: {_DAMAGED}"
        caps = file.caps
        text = to_text(caps, self.system.last_cap)
        if caps.rootid is not None and caps.rootid not in old.owners:
            where = f"root id {caps.rootid}, which is uid 0 of no user namespace that the process is in"
            self.rule("root id", "F(capabilities) = none", f"{text}: {where}")
            return 0, ""
        allowed, inherited = caps.permitted & self.full, caps.inheritable & self.full
        gain = old.sets.bounding & allowed | old.sets.inheritable & inherited
        self.gain, self.effective, self.has_caps = gain, caps.effective, True
        self.gain_formula = "(P(inheritable) & F(inheritable)) | (F(permitted) & P(bounding))"
        self.gain_numbers = f"({old.sets.inheritable:#x} & {inherited:#x}) | ({allowed:#x} & {old.sets.bounding:#x})"
        self.rule(
            "file capabilities",
            f"P'(permitted) = {self.gain_formula}",
            f"P'(permitted) = {self.gain_numbers} = {self.say(gain)} (file: {text})",
        )
        if caps.effective and (lacking := allowed & ~gain):
            self.rule(
                "effective bit",
                "F(effective) and F(permitted) & ~P'(permitted) != 0: EPERM",
                f"{allowed:#x} & ~{gain:#x} = {self.say(lacking)}",
            )
            return EPERM, (
                f"{file.path} has the effective bit, so that it must get all of its permitted set, "
                f"and {' '.join(capabilities.names(lacking))} is not in the bounding set"
            )
        return 0, ""

    def set_root(self) -> None:
        # uid 0 counts as if the file had all capabilities.
        root, old = self.old.root, self.old
        if root is None or root not in (self.uid, self.euid):
            return
        which = " and ".join(name for name, id in (("real", self.uid), ("effective", self.euid)) if id == root)
        if old.securebits & uapi.SECBIT_NOROOT:
            self.rule("SECBIT_NOROOT", "uid 0 gains nothing", f"securebits {_bits(old.securebits)}; {which} uid 0")
        elif self.has_caps and self.uid != root:
            numbers = f"real uid {self.uid}, effective uid {self.euid}: only the capabilities of the file count"
            self.rule("set-user-ID-root with file capabilities", "uid 0 gains nothing beyond them", numbers)
        else:
            self.gain = old.sets.inheritable | old.sets.bounding
            self.gain_formula = "P(inheritable) | P(bounding)"
            self.gain_numbers = f"{old.sets.inheritable:#x} | {old.sets.bounding:#x}"
            formula = f"F(permitted) = F(inheritable) = all: P'(permitted) = {self.gain_formula}"
            self.rule("root", formula, f"{which} uid 0: P'(permitted) = {self.gain_numbers} = {self.say(self.gain)}")
            if self.euid == root:
                self.effective = True
                self.rule("effective root", "F(effective) = 1", "effective uid 0")

    def changed(self) -> bool:
        old = self.old
        if self.system.release >= (6, 17):
            return self.euid != old.uids.effective or not old.in_group(self.egid)
        return self.euid != old.uids.real or self.egid != old.gids.real

    def downgrade(self) -> bool:
        # Whoever else has a hand in the process gains nothing by its exec. Returns whether the ids have changed.
        old, changed = self.old, self.changed()
        gained = self.gain & ~old.sets.permitted
        reasons = (
            (old.no_new_privs, "no_new_privs"),
            (old.shares_fs, "shared filesystem context (CLONE_FS)"),
            (old.tracer == "incapable", "traced by a process without CAP_SYS_PTRACE"),
        )
        why = ", ".join(text for true, text in reasons if true)
        if not why or not (changed or gained):
            return changed
        what = "the ids would change" if changed else f"it would gain {self.say(gained)}"
        may_setuid = old.sets.effective >> uapi.CAP_SETUID & 1
        if not may_setuid or old.no_new_privs:
            if (self.euid, self.egid) != (self.uid, self.gid):
                self.rule("ids kept", "P'(euid) = P(ruid), P'(egid) = P(rgid)", f"{why}: {what}; {self.uid}:{self.gid}")
            self.euid, self.egid = self.uid, self.gid
        self.gain &= old.sets.permitted
        self.gain_formula = f"({self.gain_formula}) & P(permitted)"
        self.gain_numbers = f"({self.gain_numbers}) & {old.sets.permitted:#x}"
        self.rule(
            "nothing gained",
            "P'(permitted) = P'(permitted) & P(permitted)",
            f"{why}: {what}; P'(permitted) = {self.gain_numbers} = {self.say(self.gain)}",
        )
        return changed

    def result(self, changed: bool) -> Process:
        old = self.old.sets
        privileged = self.has_caps or changed
        ambient = 0 if privileged else old.ambient
        why = "the file has capabilities" if self.has_caps else "the ids change" if changed else "no privileged file"
        permitted = self.gain | ambient
        effective = permitted if self.effective else ambient
        self.rule(
            "ambient",
            "P'(ambient) = (file is privileged) ? 0 : P(ambient)",
            f"P'(ambient) = {self.say(ambient)} ({why})",
        )
        self.rule(
            "permitted",
            f"P'(permitted) = {self.gain_formula} | P'(ambient)",
            f"P'(permitted) = {self.gain_numbers} | {ambient:#x} = {self.say(permitted)}",
        )
        self.rule(
            "effective",
            "P'(effective) = F(effective) ? P'(permitted) : P'(ambient)",
            f"P'(effective) = {int(self.effective)} ? {permitted:#x} : {ambient:#x} = {self.say(effective)}",
        )
        for name, mask in (("inheritable", old.inheritable), ("bounding", old.bounding)):
            self.rule(name, f"P'({name}) = P({name})", f"P'({name}) = {self.say(mask)}")
        if self.old.securebits & uapi.SECBIT_KEEP_CAPS:
            self.rule("SECBIT_KEEP_CAPS", "cleared by every execve(2)", f"securebits were {_bits(self.old.securebits)}")
        self.rule(
            "saved and filesystem ids",
            "P'(suid) = P'(fsuid) = P'(euid), P'(sgid) = P'(fsgid) = P'(egid)",
            f"uid {self.euid}, gid {self.egid}",
        )
        return self.old.replace(
            uids=Ids(self.uid, self.euid, self.euid, self.euid),
            gids=Ids(self.gid, self.egid, self.egid, self.egid),
            sets=old.replace(effective=effective, permitted=permitted, ambient=ambient),
            securebits=self.old.securebits & ~uapi.SECBIT_KEEP_CAPS,
        )

    def secure(self, after: Process, changed: bool) -> bool:
        # Else whoever starts it could have ld.so load code of his. ld.so(8), "Secure-execution mode".
        beyond_ambient = after.sets.permitted & ~after.sets.ambient
        reasons = (
            (changed, "the ids change"),
            (self.system.release >= (6, 17) and self.euid != self.uid, "effective and real uid differ"),
            (self.system.release >= (6, 17) and self.egid != self.gid, "effective and real gid differ"),
            (self.uid != self.old.root and self.effective, "the file has the effective bit, and the real uid is not 0"),
            (
                self.uid != self.old.root and beyond_ambient != 0,
                f"a real uid not 0 has {self.say(beyond_ambient)} beyond the ambient set",
            ),
        )
        why = ", ".join(text for true, text in reasons if true)
        if why:
            self.rule("secure execution", "AT_SECURE = 1", why)
        return bool(why)

    def dumpable(self, escalated: bool, unreadable: list[str]) -> int:
        old = self.old
        reasons = (
            (bool(unreadable), f"it may not read {', '.join(unreadable)}"),
            (
                old.uids.effective != old.uids.real or old.gids.effective != old.gids.real,
                "effective and real ids differed before",
            ),
            (escalated, "ids or permitted capabilities are others than before"),
        )
        why = ", ".join(text for true, text in reasons if true)
        if not why:
            return 1
        value = self.system.suid_dumpable
        self.rule("dumpable", "dumpable = fs.suid_dumpable", f"dumpable = {value}: {why}")
        return value


def _escalated(old: Process, new: Process) -> bool:
    # commit_creds of kernel/cred.c: what makes the memory private and drops the death signal.
    ids = [(cred.effective, cred.filesystem) for cred in (old.uids, old.gids, new.uids, new.gids)]
    return ids[:2] != ids[2:] or bool(new.sets.permitted & ~old.sets.permitted)


def after_setresuid(
    process: Process,
    real: int = -1,
    effective: int = -1,
    saved: int = -1,
    system: System = System(),  # noqa: B008
) -> Prediction:
    """Return what setresuid(2) does to the thread. Ids as the thread itself gives them; -1 leaves one as it is.

    The filesystem id follows the effective one. capabilities(7), "Effect of user ID changes on capabilities".
    """
    new_ids, why = _ids_of(process, (real, effective, saved))
    if new_ids is None:
        return Prediction(process, None, (), EINVAL, why)
    old = process.uids
    own = (old.real, old.effective, old.saved)
    given = [(wanted, before) for wanted, before in zip(new_ids, own) if wanted is not None]
    if all(wanted == before for wanted, before in given) and new_ids[1] in (None, old.filesystem):
        # Nothing to do, and so even the filesystem id does not follow.
        return Prediction(process, process, (Rule("nothing asked for", "P' = P", f"ids are {_three(old)} already"),))
    new = [before if wanted is None else wanted for before, wanted in zip(own, new_ids)]
    if set(new) - set(own) and not process.sets.effective >> uapi.CAP_SETUID & 1:
        why = "an id that is neither its real, effective nor saved one needs CAP_SETUID"
        return Prediction(process, None, (), EPERM, why)
    uids = Ids(new[0], new[1], new[2], filesystem=new[1])
    rules: list[Rule] = []
    sets = _fixed_up(process, uids, system, rules)
    return _changed(process, uids, sets, rules, system)


def after_setfsuid(process: Process, fsuid: int, system: System = System()) -> Prediction:  # noqa: B008
    """Return what setfsuid(2) does to the thread. fsuid: as the thread itself gives it.

    What the kernel refuses it does not say: then after is as before.
    """
    full = capabilities.full(system.last_cap)
    new_ids, why = _ids_of(process, (fsuid,))
    old = process.uids
    wanted = new_ids[0] if new_ids else None
    may_setuid = process.sets.effective >> uapi.CAP_SETUID & 1
    if wanted is None or (wanted not in (old.real, old.effective, old.saved, old.filesystem) and not may_setuid):
        why = why or "an id that is none of its four needs CAP_SETUID; setfsuid(2) says no error"
        return Prediction(process, process, (Rule("refused", "P'(fsuid) = P(fsuid)", why),), why=why)
    effective, permitted, rules = process.sets.effective, process.sets.permitted, []
    was, becomes = old.filesystem == process.root, wanted == process.root
    if was != becomes and process.securebits & uapi.SECBIT_NO_SETUID_FIXUP:
        rules.append(_NO_FIXUP)
    elif was and not becomes:
        effective &= ~FS_SET
        text = f"{process.sets.effective:#x} & ~{FS_SET:#x} = {say(effective, full)}"
        rules.append(Rule("fsuid from 0", "P'(effective) = P(effective) & ~FS", text))
    elif becomes and not was:
        effective |= permitted & FS_SET
        text = f"{process.sets.effective:#x} | ({permitted:#x} & {FS_SET:#x}) = {say(effective, full)}"
        rules.append(Rule("fsuid to 0", "P'(effective) = P(effective) | (P(permitted) & FS)", text))
    sets = process.sets.replace(effective=effective)
    return _changed(process, old.replace(filesystem=wanted), sets, rules, system)


_NO_IDS = "F(set-user-ID) = F(set-group-ID) = 0"
_NO_FIXUP = Rule("SECBIT_NO_SETUID_FIXUP", "the sets do not follow the ids", "securebits: no_setuid_fixup")
_DAMAGED = "the kernel does not understand its attribute security.capability"


def _ids_of(process: Process, wanted: tuple[int, ...]) -> tuple[tuple[int | None, ...] | None, str]:
    # The ids as the reader's, None for those to be kept; or no ids, and why.
    found: list[int | None] = []
    for number in wanted:
        outside = None if number == -1 else idmap.to_outside(process.uid_map, number)
        if number != -1 and outside is None:
            return None, f"uid {number} is not mapped in the user namespace of the process"
        found.append(outside)
    return tuple(found), ""


def _fixed_up(process: Process, new: Ids, system: System, rules: list[Rule]) -> capabilities.Sets:
    # cap_emulate_setxuid of security/commoncap.c.
    root, old, sets = process.root, process.uids, process.sets
    full = capabilities.full(system.last_cap)
    was_root = root is not None and root in (old.real, old.effective, old.saved)
    is_root = root is not None and root in (new.real, new.effective, new.saved)
    was_effective, is_effective = root == old.effective, root == new.effective
    if process.securebits & uapi.SECBIT_NO_SETUID_FIXUP:
        if was_root != is_root or was_effective != is_effective:
            rules.append(_NO_FIXUP)
        return sets
    if was_root and not is_root:
        if process.securebits & uapi.SECBIT_KEEP_CAPS:
            rules.append(Rule("SECBIT_KEEP_CAPS", "P'(permitted) = P(permitted)", say(sets.permitted, full)))
            sets = sets.replace(ambient=0)
            rules.append(Rule("no uid 0 left", "P'(ambient) = 0", f"ids become {_three(new)}"))
        else:
            sets = sets.replace(permitted=0, effective=0, ambient=0)
            formula = "P'(permitted) = P'(effective) = P'(ambient) = 0"
            rules.append(Rule("no uid 0 left", formula, f"ids {_three(old)} become {_three(new)}"))
    if was_effective and not is_effective:
        sets = sets.replace(effective=0)
        rules.append(Rule("effective uid from 0", "P'(effective) = 0", f"{old.effective} becomes {new.effective}"))
    if is_effective and not was_effective:
        sets = sets.replace(effective=sets.permitted)
        numbers = f"P'(effective) = {say(sets.permitted, full)}; {old.effective} becomes {new.effective}"
        rules.append(Rule("effective uid to 0", "P'(effective) = P(permitted)", numbers))
    return sets


def _changed(process: Process, uids: Ids, sets: capabilities.Sets, rules: list[Rule], system: System) -> Prediction:
    after = process.replace(uids=uids, sets=sets)
    escalated = _escalated(process, after)
    if not rules:
        rules = [Rule("no rule", "the sets stay", "no id of 0 is gained or lost")]
    if escalated:
        rules = [*rules, Rule("dumpable", "dumpable = fs.suid_dumpable", f"dumpable = {system.suid_dumpable}")]
    dumpable = system.suid_dumpable if escalated else None
    return Prediction(process, after, tuple(rules), dumpable=dumpable, death_signal=not escalated)


def say(mask: int, full: int = capabilities.full()) -> str:
    """Return a mask with its names: "0x2000 (net_raw)", the names of a large one by what is missing."""
    names, lacking = capabilities.names(mask), capabilities.names(full & ~mask)
    if not names:
        return "0x0"
    if not lacking:
        return f"{mask:#x} (all)"
    if len(names) > 6 and len(lacking) <= 6:
        return f"{mask:#x} (all but {' '.join(lacking)})"
    shown = " ".join(names[:6]) + (f" and {len(names) - 6} more" if names[6:] else "")
    return f"{mask:#x} ({shown})"


def _bits(mask: int) -> str:
    return " ".join(securebits.names(mask)) or "none"


def _three(ids: Ids) -> str:
    return f"{ids.real}:{ids.effective}:{ids.saved}"
