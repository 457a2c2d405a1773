"""The teachers of a training: each made once, each in memory once."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from trl.models.utils import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import create_model_from_path

from .fingerprints import file_sha256
from .heads import Head
from .hosts import Host, has_adapters
from .mopd_config import MOPDConfig
from .server_teacher import ServerTeacher
from .teacher_loading import check_whole, first_line
from .teachers import SELF, STUDENT, LoraTeacher, as_spec, is_address, is_client, is_on_student, is_self
from .vocabulary import Vocabulary, common_size


class LocalTeacher(NamedTuple):
    """
    A teacher in this process: a model, or one adapter of it.

    Attributes:
        vocab_size: tokens that it has in common with the student.
        student_size: rows of the student's table.
        description: for the manifest and the model card.
    """

    host: Host
    adapter: str | None
    vocab_size: int
    student_size: int
    description: dict[str, Any]

    def head(self, device: torch.device) -> Head:
        head = self.host.head(device)
        return head if head.vocab_size == self.vocab_size else head.cut(self.vocab_size)


class RemoteTeacher(NamedTuple):
    """A teacher behind a server, or a scheduler."""

    client: Any  # with the methods of ServerTeacher

    @property
    def description(self) -> dict[str, Any]:
        return self.client.describe()


Teacher = LocalTeacher | RemoteTeacher


class Student(NamedTuple):
    """
    What teachers are made of, and must agree with.

    Attributes:
        model: as the trainer has it, perhaps with adapters.
        tokenizer: the trainer's.
        initial: a copy of it as it was at the start, where one is needed, without adapters; else None.
    """

    model: Any
    tokenizer: Any
    initial: PreTrainedModel | None

    @property
    def causal_lm(self) -> Any:
        return self.model.get_base_model() if has_adapters(self.model) else self.model

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(
            self.causal_lm.get_output_embeddings().weight.shape[0], self.tokenizer.get_vocab(), "the student"
        )


class TeacherPool:
    """
    All teachers of a training.

    Attributes:
        names: of the domains, in the order in which all processes score them.
        teachers: of each domain; several domains may share one.
        is_sharded: whether FSDP or ZeRO-3 splits models over the processes.
    """

    def __init__(self, specs: Mapping[str, Any], student: Student, args: MOPDConfig, accelerator: Any):
        self.args = args
        self.student = student
        self.vocabulary = student.vocabulary
        self.is_sharded = _is_sharded(accelerator)
        self._check_sharding()
        self.names = list(specs)
        self._hosts: dict[Any, Host] = {}
        self._made: dict[Any, Teacher] = {}
        self.teachers = [self._teacher(name, as_spec(spec)) for name, spec in specs.items()]
        for host in self._hosts.values():
            self._place(host, accelerator)

    def describe(self) -> dict[str, dict[str, Any]]:
        """Of each domain, for the manifest and the model card."""
        return {name: dict(teacher.description) for name, teacher in zip(self.names, self.teachers, strict=True)}

    def adapters_of_student(self) -> set[str]:
        """What teachers are called that lie in the student's own model."""
        local = [teacher for teacher in self.teachers if isinstance(teacher, LocalTeacher)]
        return {teacher.adapter for teacher in local if teacher.host.is_student and teacher.adapter is not None}

    def distinct(self) -> list[tuple[Teacher, list[int]]]:
        """Each teacher with its domains' indices, in the order of the first of them."""
        domains: dict[int, list[int]] = {}
        for index, teacher in enumerate(self.teachers):
            domains.setdefault(id(teacher), []).append(index)
        return [(self.teachers[indices[0]], indices) for indices in domains.values()]

    def check_servers(self) -> None:
        """Asks every server for a score, as the training will."""
        top_k = self.args.kl_top_k if self.args.kl_estimator == "topk_teacher" else 0
        for teacher, _ in self.distinct():
            if isinstance(teacher, RemoteTeacher):
                known = (
                    max(self.student.tokenizer.get_vocab().values()) + 1
                )  # the student's table may be padded beyond these
                teacher.client.check(self.args.temperature, top_k, known)

    def _teacher(self, name: str, spec: Any) -> Teacher:
        key: Any = spec if isinstance(spec, str) else id(spec)
        if isinstance(spec, LoraTeacher):
            key = (spec.path, spec.base if isinstance(spec.base, str) else id(spec.base))
        if key not in self._made:
            self._made[key] = self._make(name, spec)
        return self._made[key]

    def _make(self, name: str, spec: Any) -> Teacher:
        if is_address(spec):
            timeout_s, concurrency = self.args.teacher_server_timeout, self.args.teacher_server_concurrency
            return RemoteTeacher(ServerTeacher(spec, timeout_s=timeout_s, concurrency=concurrency))
        if is_client(spec):
            return RemoteTeacher(spec)
        adapter: str | None = None
        if isinstance(spec, LoraTeacher):
            host = self._student(True) if is_on_student(spec) else self._host(spec.base, name)
            path = os.fspath(spec.path)
            adapter = host.add_adapter(path, name)
            description = {"kind": "adapter", "source": path, "sha256": file_sha256(path)}
        elif is_self(spec):
            host = self._student(False)
            adapter = host.copy_of_own_adapter(name)
            description = {"kind": "self", "source": SELF, "fingerprint": host.fingerprint(adapter)}
        else:
            host = self._host(spec, name)
            config = host.causal_lm.config
            source = spec if isinstance(spec, str) else getattr(config, "_name_or_path", "") or type(spec).__name__
            description = {"kind": "local", "source": source, "fingerprint": host.fingerprint(None)}
            if getattr(config, "_commit_hash", None):
                description["revision"] = config._commit_hash
        if is_self(spec) or is_on_student(spec):
            own = self.vocabulary
        else:
            own = Vocabulary.of_teacher(host.causal_lm, name, self.args.trust_remote_code)
        size = common_size(self.vocabulary, own, name, self.args.kl_estimator)
        return LocalTeacher(host, adapter, size, self.vocabulary.size, description | {"vocab_size": own.size})

    def _student(self, has_adapter_teachers: bool) -> Host:
        """The student itself, as its base is frozen, or the copy of it."""
        initial = self.student.initial
        if initial is None:
            from .adapters import check_student_keeps_its_base

            check_student_keeps_its_base(self.student.model, has_adapter_teachers)
        return self._made_host(STUDENT, self.student.model if initial is None else initial, is_student=initial is None)

    def _host(self, base: Any, name: str) -> Host:
        """A model, or the path of one, that the teacher of this name is or is loaded into."""
        key = ("path", base) if isinstance(base, str) else id(base)
        if key in self._hosts:
            return self._hosts[key]
        model = self._load(base, name) if isinstance(base, str) else base
        if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
            raise TypeError(
                f"`teachers[{name!r}]` must be a causal language model, with a head over the vocabulary; got {type(model).__name__}."
            )
        return self._made_host(key, model, is_student=False)

    def _made_host(self, key: Any, model: Any, *, is_student: bool) -> Host:
        if key not in self._hosts:
            offloads = self.args.teacher_offload == "cpu" and not is_student
            self._hosts[key] = Host(
                model,
                self.args.temperature,
                is_student=is_student,
                cast_lm_head_to_fp32=self.args.cast_lm_head_to_fp32,
                rests_on=torch.device("cpu") if offloads else None,
            )
        return self._hosts[key]

    def _load(self, path: str, name: str) -> PreTrainedModel:
        settings: dict[str, Any] = {"dtype": self.args.teacher_dtype, "trust_remote_code": self.args.trust_remote_code}
        distributed = self.args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED")
        if self.args.teacher_offload == "cpu" or distributed or self.is_sharded:
            settings["device_map"] = None
        try:
            loaded: Any = create_model_from_path(path, output_loading_info=True, **settings)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ValueError(
                f"`teachers[{name!r}]` must be a model that can be loaded; got {path!r}: {first_line(error)}"
            ) from error
        model, info = loaded
        check_whole(model, info, f"`teachers[{name!r}]`, {path!r},")
        return model

    def _check_sharding(self) -> None:
        if self.is_sharded and self.args.kl_estimator != "sampled":
            raise NotImplementedError(
                f"`kl_estimator={self.args.kl_estimator!r}` reads the weights of both heads, which FSDP and ZeRO-3 shard: set "
                "'sampled', or train without sharding."
            )
        if self.is_sharded and self.args.teacher_offload == "cpu":
            raise NotImplementedError(
                "`teacher_offload='cpu'` moves whole models, which FSDP and ZeRO-3 shard: leave it at 'none'."
            )

    def _place(self, host: Host, accelerator: Any) -> None:
        if host.is_student or host.rests_on is not None:
            return
        if not self.is_sharded:
            host.model.to(accelerator.device)
        elif _kind(accelerator) == "FSDP":
            host.model = prepare_fsdp(host.model, accelerator)
        else:
            host.model = prepare_deepspeed(host.model, accelerator)


def _kind(accelerator: Any) -> str:
    return str(accelerator.distributed_type).rsplit(".", 1)[-1]


def _is_sharded(accelerator: Any) -> bool:
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    return _kind(accelerator) == "FSDP" or (
        _kind(accelerator) == "DEEPSPEED" and plugin is not None and plugin.zero_stage == 3
    )
