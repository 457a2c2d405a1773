"""`mimo-hf audio ...`: speech to codes and back, to text and from text, and the official folders as ours."""

import argparse
from pathlib import Path
from typing import Any

SOUND = (".wav", ".flac", ".ogg")
CODES = (".safetensors",)
TAKEN = 8  # codebooks that the language model reads and writes
QUIET = -7.0  # of the picture's logarithms
BUNDLED = "mimo-audio"
DEFAULT = "Left out: the bundled tiny one, which knows spoken numbers and little else."
CODEC_HELP = f"Here: MiMo-Audio-Tokenizer, or a folder of MiMo-Audio that has it within. {DEFAULT}"


def add_audio_commands(kit: Any) -> None:
    group = kit.group("audio", "MiMo-Audio: speech to codes and back, transcriptions, speech of a text.")
    encode = group.command(
        "encode", _encode, "Turn a recording into the codec's codes, 25 frames a second.",
        "  mimo-hf audio encode --model path/of/the/codec speech.wav speech.safetensors --plot codes.png",
    )  # fmt: skip
    kit.shared(encode, "--model", CODEC_HELP)
    _in_and_out(kit, encode, "A file that soundfile reads, of any rate.", CODES)
    encode.add_argument(
        "--quantizers",
        metavar="N",
        type=kit.Whole(),
        help="Codebooks, the first ones (default: 8, as the language model takes).",
    )
    kit.shared(encode, "--device")
    kit.shared(encode, "--plot")

    decode = group.command(
        "decode", _decode, "Turn codes into a recording at the codec's rate, 24 kHz.",
        "  mimo-hf audio decode --model path/of/the/codec speech.safetensors again.flac",
    )  # fmt: skip
    kit.shared(decode, "--model", CODEC_HELP)
    _in_and_out(kit, decode, "What `audio encode` has written.", SOUND)
    kit.shared(decode, "--device")

    transcribe = group.command(
        "transcribe", _transcribe, "Write down what is said in a recording.",
        "  mimo-hf audio transcribe --model path/of/the/model speech.wav\n"
        "  mimo-hf audio transcribe --model path/of/the/model speech.wav said.txt --device cuda",
    )  # fmt: skip
    _model_options(kit, transcribe)
    transcribe.add_argument(
        "input",
        metavar="IN",
        type=kit.readable,
        help="A file that soundfile reads, of any rate and at most some minutes.",
    )
    transcribe.add_argument(
        "output", metavar="OUT", nargs="?", type=kit.writable, help="A text file; none: the terminal."
    )

    speak = group.command(
        "speak", _speak, "Read a text aloud into a file.",
        '  mimo-hf audio speak --model path/of/the/model "Hello, world." hello.wav --seed 3',
    )  # fmt: skip
    _model_options(kit, speak)
    speak.add_argument("text", metavar="TEXT", type=kit.text, help="What is said.")
    _out(kit, speak, SOUND)

    goes_on = group.command(
        "continue", _continue, "Go on with a recording where it ends.",
        "  mimo-hf audio continue --model path/of/the/model speech.wav whole.wav\n"
        "  mimo-hf audio continue --model path/of/the/model speech.wav more.flac --only-new --seed 3",
    )  # fmt: skip
    _model_options(kit, goes_on)
    _in_and_out(kit, goes_on, "A file that soundfile reads, of any rate and at most some minutes.", SOUND)
    goes_on.add_argument("--only-new", action="store_true", help="Write what comes after IN, without IN itself.")

    convert = group.command(
        "convert", _convert, "Make one folder, which the Auto classes load, of the official two.",
        "  mimo-hf audio convert MiMo-Audio-7B-Instruct MiMo-Audio-Tokenizer mimo-audio",
    )  # fmt: skip
    convert.add_argument("lm_dir", metavar="LM", type=Path, help="The folder of the language model.")
    convert.add_argument("codec_dir", metavar="CODEC", type=Path, help="The folder of the codec.")
    convert.add_argument("out_dir", metavar="OUT", type=Path, help="A new folder.")


def _in_and_out(kit: Any, parser: Any, help: str, endings: tuple[str, ...]) -> None:
    parser.add_argument("input", metavar="IN", type=kit.readable, help=help)
    _out(kit, parser, endings)


def _out(kit: Any, parser: Any, endings: tuple[str, ...]) -> None:
    parser.add_argument(
        "output",
        metavar="OUT",
        action=kit.WriteTo,
        type=kit.writable,
        endings=endings,
        help=f"A file that ends in {' or '.join(endings)}.",
    )


def _model_options(kit: Any, parser: Any) -> None:
    kit.shared(parser, "--model", f"Here: MiMo-Audio with its processor and codec. {DEFAULT}")
    parser.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=kit.Whole(),
        default=1024,
        help="Tokens to add, at most. A patch of speech, 160 ms, is one.",
    )
    kit.shared(parser, "--seed")
    kit.shared(parser, "--device")


def _codec(kit: Any, args: argparse.Namespace):
    with kit.stage("loading the codec"):
        from .modeling_mimo_audio_tokenizer import MiMoAudioTokenizerModel
        from .processing_codec import codec_folder

        # What the Hub has now; no code of a checkpoint is run.
        return _loaded(codec_folder(_given(args)), MiMoAudioTokenizerModel).to(args.device).eval()


def _given(args: argparse.Namespace) -> str:
    from ...hub.checkpoints import bundled

    return str(bundled(BUNDLED)) if args.model is None else args.model


def _loaded(model: str, *classes: Any):
    """Objects of a folder; a folder of another type is refused before a model is made of defaults."""
    from transformers import PretrainedConfig

    wanted = classes[0].config_class.model_type
    try:
        found = PretrainedConfig.get_config_dict(model)[0].get("model_type")
        if found in (None, wanted):
            loaded = [one.from_pretrained(model) for one in classes]  # nosec B615  # as said at the call
            return loaded[0] if len(loaded) == 1 else loaded
        reason = f"its config.json says {found!r}, not {wanted!r}."
        if (found, wanted) == ("qwen2", "mimo_audio"):
            reason += " Convert the official folders with `mimo-hf audio convert` first."
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
    raise ValueError(f"--model must be a folder or a model of the Hub of MiMo-Audio; got {model}: {reason}")


def _encode(kit: Any, args: argparse.Namespace) -> int:
    drawing = kit.drawing() if args.plot else None
    codec = _codec(kit, args)
    from safetensors.torch import save_file

    from .audio_clips import read_audio

    number = args.quantizers or min(TAKEN, codec.config.num_quantizers)
    if number > codec.config.num_quantizers:
        raise ValueError(f"`quantizers` must be at most {codec.config.num_quantizers}, the codec's; got {number}.")
    samples = read_audio(args.input, codec.config.sampling_rate)
    with kit.stage("encoding"):
        made = codec.encode_long(input_values=samples[None].to(args.device), num_quantizers=number)
    codes = made.audio_codes[0].cpu()
    save_file({"audio_codes": codes.int().contiguous()}, args.output, metadata={"samples": str(len(samples))})
    if drawing is not None:
        drawing.save(_picture(drawing, codec, samples, codes), args.plot)
    print(
        f"{args.output}: {codes.shape[0]} codebooks, {codes.shape[1]} frames of {len(samples) / codec.config.sampling_rate:.2f} s"
    )
    return 0


def _picture(drawing: Any, codec: Any, samples: Any, codes: Any) -> Any:
    import torch

    mel, _ = codec._log_mel(samples[None], None)
    seconds = len(samples) / codec.config.sampling_rate
    entries = torch.tensor(codec.config.codebook_sizes[: len(codes)])
    return drawing.heat_maps(
        [
            drawing.HeatMap(
                "Log-mel frames", mel[0].T.clamp(min=QUIET), "s", "mel bin", "ln magnitude", stretched=True, extent=(0, seconds, 0, mel.shape[2] - 1)
            ),
            drawing.HeatMap(
                "Codes", codes / entries[:, None], "s", "codebook", "code / entries", low=0.0, high=1.0,
                extent=(0, seconds, 1, len(codes)), stretched=True,
            ),
        ],
        title="A recording and its codes",
    )  # fmt: skip


def _decode(kit: Any, args: argparse.Namespace) -> int:
    codec = _codec(kit, args)
    from safetensors import SafetensorError, safe_open

    from .audio_clips import write_audio

    try:
        with safe_open(args.input, framework="pt") as file:
            codes = file.get_tensor("audio_codes").long()
            length = int((file.metadata() or {}).get("samples", codes.shape[-1] * codec.config.samples_per_code))
    except SafetensorError as error:
        raise ValueError(f"IN must be a file of `audio encode`; got {args.input}: {error}.") from error
    with kit.stage("decoding"):
        audio = codec.decode_long(codes[None].to(args.device)).audio_values[0, 0, :length]
    write_audio(audio, args.output, codec.config.sampling_rate)
    print(f"{args.output}: {len(audio) / codec.config.sampling_rate:.2f} s at {codec.config.sampling_rate} Hz")
    return 0


def _ready(kit: Any, args: argparse.Namespace):
    """Model and processor."""
    with kit.stage("loading the model"):
        from transformers import set_seed

        from .modeling_mimo_audio import MiMoAudioForConditionalGeneration
        from .processing_mimo_audio import MiMoAudioProcessor

        kit.register_models()
        # What the Hub has now; no code of a checkpoint is run.
        model, processor = _loaded(_given(args), MiMoAudioForConditionalGeneration, MiMoAudioProcessor)
        set_seed(args.seed)
        codec = getattr(processor, "audio_tokenizer", None)
        if codec is not None:
            codec.to(args.device)
        return model.to(args.device).eval(), processor


def _answer(kit: Any, args: argparse.Namespace, task: str, content: list[dict[str, Any]]):
    model, processor = _ready(kit, args)
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], task=task).to(args.device)
    with kit.stage("generating"):
        output = model.generate(**inputs, **model.generation_presets[task], max_new_tokens=args.max_new_tokens)
    (answer,) = processor.parse_response(output)
    return processor, answer


def _transcribe(kit: Any, args: argparse.Namespace) -> int:
    _, answer = _answer(kit, args, "asr", [{"type": "audio", "path": str(args.input)}])
    if args.output is None:
        print(kit.visible(answer["text"]))
    else:
        args.output.write_text(answer["text"] + "\n", encoding="utf-8")
    return 0


def _speak(kit: Any, args: argparse.Namespace) -> int:
    processor, answer = _answer(kit, args, "tts", [{"type": "text", "text": args.text}])
    codes = answer["audio_codes"]
    if codes is None or len(codes) == 0:
        raise ValueError(
            f"`text` must be something that the model reads aloud; got {args.text!r}, and no speech. Try another --seed."
        )
    with kit.stage("decoding"):
        audio = processor.decode_audio(codes)
    processor.save_audio(audio, args.output)
    print(f"{args.output}: {len(audio) / processor.sampling_rate:.2f} s")
    return 0


def _continue(kit: Any, args: argparse.Namespace) -> int:
    import torch

    model, processor = _ready(kit, args)
    inputs = processor.continuation({"path": str(args.input)}).to(args.device)
    with kit.stage("generating"):
        output = model.generate(
            **inputs, **model.generation_presets["continuation"], max_new_tokens=args.max_new_tokens
        )
    (answer,) = processor.parse_response(output)
    heard, more = inputs["audio_codes"][0, 1:].flatten(0, 1), answer["audio_codes"]
    if len(more) == 0:
        raise ValueError(
            f"IN must be speech that `audio continue` can go on with; got {args.input}, after which the model says no more."
        )
    with kit.stage("decoding"):
        audio = processor.decode_audio(more if args.only_new else torch.cat([heard.to(more.device), more]))
    processor.save_audio(audio, args.output)
    print(f"{args.output}: {len(audio) / processor.sampling_rate:.2f} s")
    return 0


def _convert(kit: Any, args: argparse.Namespace) -> int:
    with kit.stage("importing torch and transformers"):
        from .convert_mimo_audio_checkpoint import convert_mimo_audio_checkpoint
    print(
        f"{convert_mimo_audio_checkpoint(args.lm_dir, args.codec_dir, args.out_dir)}: AutoModelForMultimodalLM, AutoProcessor"
    )
    return 0
