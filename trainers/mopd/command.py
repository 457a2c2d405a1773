"""`mimo-hf teacher serve PATH`: a teacher for MOPD on this machine or in its network."""

import argparse
import ipaddress
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

SUMMARY = "Serve a model's log-probabilities to MOPD trainings, in vLLM's protocol and without vLLM."
EXAMPLES = """\
  mimo-hf teacher serve ./math-teacher
  mimo-hf teacher serve ORG/MODEL --port 8001 --device cuda --dtype bfloat16
  mimo-hf teacher serve ./adapter --served-model-name math --max-logprobs 128
  VLLM_API_KEY=secret mimo-hf teacher serve ./math-teacher --host 0.0.0.0

then, where the training runs:
  MOPDTrainer(..., teachers={"math": "http://127.0.0.1:8000"})"""


def add_commands(kit: Any) -> None:
    """Adds `teacher serve`."""
    parser = kit.group("teacher", "Serve teachers of MOPD.").command("serve", _serve, SUMMARY, EXAMPLES)
    parser.add_argument(
        "path", metavar="PATH_OR_ID", help="A checkpoint or adapter folder, or a model of the Hub as OWNER/NAME."
    )
    parser.add_argument("--port", metavar="N", type=kit.Whole(1, 65535), default=8000, help="Port to listen on.")
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="Address to listen on.")
    parser.add_argument(
        "--served-model-name",
        metavar="NAME",
        type=kit.text,
        help="The model's name for clients (default: PATH_OR_ID).",
    )
    parser.add_argument(
        "--max-batch-tokens", metavar="N", type=kit.Whole(), default=8192, help="Tokens in a batch, with padding."
    )
    parser.add_argument(
        "--max-logprobs",
        metavar="N",
        type=kit.Whole(-1),
        default=64,
        help="How many tokens a client may ask for at each position; -1: as many as there are.",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="Number format of the weights (default: the file's).",
    )
    kit.shared(parser, "--device")
    parser.add_argument("--attn-implementation", metavar="NAME", help="Such as sdpa or flash_attention_2.")
    parser.add_argument("--trust-remote-code", action="store_true", help="Run the code that lies beside the weights.")


def _serve(kit: Any, args: argparse.Namespace) -> int:
    _check_path(args.path)
    _check_address(args.host, args.port)
    with kit.stage("loading the teacher"):
        from .teacher_loading import load_teacher
        from .teacher_server import TeacherServer

        kit.register_models()
        model, tokenizer = load_teacher(
            args.path,
            dtype=args.dtype or "auto",
            device=args.device,
            attn_implementation=args.attn_implementation,
            trust_remote_code=args.trust_remote_code,
        )
    if tokenizer is None:
        kit.say(f"{args.path} has no tokenizer: clients must send token ids, as MOPDTrainer does.")
    if not _is_loopback(args.host) and not os.environ.get("VLLM_API_KEY"):
        kit.say(
            f"warning: whoever reaches {args.host} may ask this teacher; set VLLM_API_KEY here and in the training to prevent it."
        )
    server = TeacherServer(
        model,
        tokenizer,
        host=args.host,
        port=args.port,
        name=args.served_model_name or args.path,
        max_batch_tokens=args.max_batch_tokens,
        max_logprobs=args.max_logprobs,
    )
    try:
        print(
            f'{server.url} serves {server.name}, until Ctrl-C; for MOPDTrainer: teachers={{"math": "{server.url}"}}',
            flush=True,
        )
        while True:
            time.sleep(1)  # and not for ever: a Ctrl-C that reaches another thread does not end a wait of this one
    except KeyboardInterrupt:
        kit.say("stopped")
    finally:
        server.close()
    return 0


def _check_path(name: str) -> None:
    """What can be said before torch is imported."""
    folder = Path(name).expanduser()
    if folder.is_file():
        raise ValueError(f"PATH_OR_ID must be a folder; got {name}, which is a file. Give the folder that it lies in.")
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise ValueError(
                f"PATH_OR_ID must be a checkpoint or adapter folder; got {name}, which has neither config.json nor "
                "adapter_config.json."
            )
    elif not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise ValueError(
            f"PATH_OR_ID must be a checkpoint folder, or a model of the Hub as OWNER/NAME; got {name}, which does not exist."
        )


def _check_address(host: str, port: int) -> None:
    """Before minutes go into loading: can the address be listened on?"""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise ValueError(
            f"--host and --port must be an address to listen on; got {host} and {port}: {error.strerror}. Give others."
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
