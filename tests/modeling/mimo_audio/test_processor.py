"""The processor: prompts of every task, position by position; labels; what comes back; saving and loading."""

import random
import re

import numpy as np
import pytest
import torch

from mimo_hf.modeling.mimo_audio import MiMoAudioConfig, MiMoAudioProcessor, pad_codes_to_group
from mimo_hf.modeling.mimo_audio.generation_mimo_audio import MiMoAudioGenerateOutput

ZERO = [[6, 6, 4]] * 2
NAMES = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|sosp|>",
    "<|eosp|>",
    "<|empty|>",
    "<|Human|>",
    "<|SpeechLM|>",
]
NAMES += ["<|sostm|>", "<|eostm|>", "<|eot|>"]
IDS = {name: 256 + number for number, name in enumerate(NAMES)}
EMPTY = IDS["<|empty|>"]
NOT_THINKING = "<think>\n\n</think>\n"


def draw(patches, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, zero, (2 * patches,), generator=generator) for zero in ZERO[0]], dim=1)


def spelt(text):
    """Ids of a text, a byte each, and of the special tokens in it."""
    ids = []
    for piece in re.split(r"(<\|\w+\|>)", text):
        ids += [IDS[piece]] if piece in IDS else list(piece.encode())
    return ids


def positions(*parts):
    """(id, patch) of each position, of texts, (codes,) for a clip and (text, codes) for interleaved speech."""
    found = []
    for part in parts:
        if isinstance(part, str):
            found += [(token, ZERO) for token in spelt(part)]
            continue
        patches = part[-1].reshape(-1, 2, 3).tolist()
        if len(part) == 1:
            found += [(IDS["<|sosp|>"], ZERO), *((EMPTY, patch) for patch in patches), (IDS["<|eosp|>"], ZERO)]
            continue
        words = spelt(part[0])
        found.append((IDS["<|sostm|>"], ZERO))
        chunks = [words[at : at + 5] for at in range(0, len(words), 5)]
        chunks[-1].append(IDS["<|eot|>"])
        for turn in range(max(len(chunks), -(-len(patches) // 5))):
            found += [(token, ZERO) for token in (chunks[turn] if turn < len(chunks) else [])]
            found += [(EMPTY, patch) for patch in patches[5 * turn : 5 * turn + 5]]
        found.append((IDS["<|eostm|>"], ZERO))
    return found


def rows_of(batch):
    """(id, patch) of each position that is no padding, for each row."""
    return [
        [(int(token), patch.tolist()) for token, patch, inside in zip(*row, strict=True) if inside]
        for row in zip(batch["input_ids"], batch["audio_codes"], batch["attention_mask"], strict=True)
    ]


def user(*parts, **more):
    made = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "audio", "codes": part} for part in parts
    ]
    return {"role": "user", "content": made} | more


def says(text, codes, **more):
    parts = [{"type": "text", "text": text}, {"type": "audio", "codes": codes}]
    return {"role": "assistant", "content": parts} | more


def system(*parts):
    return user(*parts) | {"role": "system"}


def turn(role, *parts):
    return (f"<|im_start|>{role}\n", *parts, "<|im_end|>\n")


A, B, C = draw(2), draw(3, seed=1), draw(7, seed=2)
BEGIN = "<|im_start|>assistant\n"
STYLE = "你需要根据指定的风格指令和文本内容来生成语音。"
VOICED = "你需要根据指定的风格指令和文本内容来生成和语音prompt具有相同音色的语音。你的音色应该是："
SILENT = BEGIN + NOT_THINKING
SPEAKS = BEGIN + "<|sostm|>"

# What is given, with which options, and what the model reads.
TASKS = {
    "asr": ([user(A)], {"task": "asr"}, [*turn("user", (A,), "Please transcribe this audio file"), SILENT]),
    "asr in Chinese": (
        [user(A)],
        {"task": "asr", "template": "请将这段语音转换为文字"},
        [*turn("user", (A,), "请将这段语音转换为文字"), SILENT],
    ),
    "asr with a sentence of one's own": (
        [user(A, "Write!")], {"task": "asr"}, [*turn("user", (A,), "Write!"), SILENT]
    ),
    "understanding": (
        [user(A, "Who?")], {"task": "understanding"}, [*turn("user", (A,), "Who?"), SILENT]
    ),
    "thinking": (
        [user(A, "Who?")], {"task": "understanding", "thinking": True}, [*turn("user", (A,), "Who?"), BEGIN, "<think>\n"]
    ),
    "speech to text": (
        [user(A)], {"task": "speech_to_text_dialogue"}, [*turn("user", (A,)), SILENT]
    ),
    "text": ([{"role": "user", "content": "Hi"}], {}, [*turn("user", "Hi"), SILENT]),
    "several turns of text": (
        [system("Be kind."), user("Hi"), {"role": "assistant", "content": "Yo"}, user("Why?")],
        {"task": "text_chat"},
        [*turn("system", "Be kind."), *turn("user", "Hi"), *turn("assistant", "Yo"), *turn("user", "Why?"), SILENT],
    ),
    "tts": (
        [user("good day")], {"task": "tts"}, [*turn("user", "Please convert this text to speech: good day"), SPEAKS]
    ),
    "tts in Chinese": (
        [user("你好")], {"task": "tts"}, [*turn("user", "请将这段文字转换为语音: 你好"), SPEAKS]
    ),
    "tts with a capital": (
        [user("good day")],
        {"task": "tts", "capitalize": True},
        [*turn("user", "Please convert this text to speech: Good day"), SPEAKS],
    ),
    "instructed tts": (
        [user("Go!", instruct="angry")],
        {"task": "instruct_tts"},
        [*turn("system", STYLE), *turn("user", "Please convert this text to speech: Go!(angry)"), BEGIN, "<think>\n"],
    ),
    "tts instructed in passing": (
        [user("Say angrily: Go!")],
        {"task": "instruct_tts"},
        [*turn("system", STYLE), *turn("user", "Say angrily: Go!"), BEGIN, "<think>\n"],
    ),
    "tts with a voice": (
        [system(B), user("Go!", instruct="angry")],
        {"task": "instruct_tts"},
        [
            *turn("system", VOICED, (B,)),
            *turn("user", "Please convert this text to speech: Go!(angry)"),
            BEGIN,
            "<think>\n",
        ],
    ),
    "spoken dialogue": (
        [user(A)], {"task": "spoken_dialogue"}, [*turn("user", (A,)), SPEAKS]
    ),
    "several spoken turns": (
        [system("Be brief.", B), user(A), says("Yes, indeed.", C), user(B)],
        {"task": "spoken_dialogue"},
        [
            *turn("system", "Your voice should be:", (B,)),
            *turn("user", "Be brief.\n\n", (A,)),
            *turn("assistant", ("Yes, indeed.", C)),
            *turn("user", (B,)),
            SPEAKS,
        ],
    ),
    "a system without a voice": (
        [system("Be brief."), user(A)],
        {"task": "spoken_dialogue"},
        [*turn("user", "Be brief.\n\n", (A,)), SPEAKS],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_worded_as_the_official_code_does(speech_processor, name):
    conversation, options, expected = TASKS[name]
    batch = speech_processor(codec=False).apply_chat_template(conversation, **options)
    assert rows_of(batch) == [positions(*expected)]
    assert batch["input_ids"].shape[0] == 1
    assert sorted(batch) == ["attention_mask", "audio_codes", "input_ids"]


def test_the_prompt_as_text_has_a_place_for_each_clip(speech_processor):
    processor = speech_processor(codec=False)
    chat = [system(B), user(A, "So?"), says("No.", C), user(A)]
    text = processor.apply_chat_template(chat, tokenize=False)
    assert text == (
        "<|im_start|>system\n<|sosp|><|empty|><|eosp|><|im_end|>\n"
        "<|im_start|>user\n<|sosp|><|empty|><|eosp|>So?<|im_end|>\n"
        "<|im_start|>assistant\n<|sostm|>No.<|empty|><|eostm|><|im_end|>\n"
        "<|im_start|>user\n<|sosp|><|empty|><|eosp|><|im_end|>\n" + SILENT
    )
    for audio in ([B, A, C, A], [[B, A, C, A]]):
        called = processor(text, audio=audio, return_tensors="pt")
        templated = processor.apply_chat_template(chat)
        assert all(torch.equal(called[key], templated[key]) for key in templated)


def test_sentences_are_drawn_with_rng_only(speech_processor):
    processor = speech_processor(codec=False)
    asked = {
        processor.apply_chat_template([user(A)], task="asr", rng=random.Random(seed), tokenize=False)
        for seed in range(40)
    }
    assert len(asked) == 5
    spoken = [
        processor.apply_chat_template([user("Hm")], task="tts", rng=random.Random(seed), tokenize=False)
        for seed in (1, 1)
    ]
    assert spoken[0] == spoken[1]


def test_a_batch_is_padded_on_the_left_and_has_each_row_as_it_is_alone(speech_processor):
    processor = speech_processor(codec=False)
    chats = [[user(A)], [user(B, "What a long question this is")], [user("Hi")]]
    batch = processor.apply_chat_template(chats, task="understanding")
    alone = [rows_of(processor.apply_chat_template(chat, task="understanding"))[0] for chat in chats]
    assert rows_of(batch) == alone
    lengths = [len(row) for row in alone]
    assert batch["attention_mask"].tolist() == [[0] * (max(lengths) - n) + [1] * n for n in lengths]
    outside = batch["attention_mask"] == 0
    assert set(batch["input_ids"][outside].tolist()) == {IDS["<|endoftext|>"]}
    assert batch["audio_codes"][outside].reshape(-1, 3).unique(dim=0).tolist() == [[6, 6, 4]]
    lists = processor.apply_chat_template(chats, task="understanding", return_tensors=None, padding=False)
    assert [len(row) for row in lists["input_ids"]] == lengths
    arrays = processor.apply_chat_template(chats, return_tensors="np")
    assert isinstance(arrays["audio_codes"], np.ndarray)


def test_examples_come_before_the_query_speech_to_speech(speech_processor):
    processor = speech_processor(codec=False)
    examples = [{"input": A, "transcript": "Hello, you.", "output": B}, (B, "So", C)]
    expected = ["[Int]:Say it.\n", (A,), "\n", ("Hello, you.", B), " \n\n", (B,), "\n", ("So", C), " \n\n"]
    assert rows_of(processor.few_shot("Say it.", examples, C)) == [positions(*expected, (C,), "\n", "<|sostm|>")]
    two = processor.few_shot("Say it.", examples, [{"codes": C}, {"codes": A}])
    assert rows_of(two) == [positions(*expected, (query,), "\n", "<|sostm|>") for query in (C, A)]
    assert rows_of(processor.few_shot("Say it.", [], A)) == [positions("[Int]:Say it.\n", (A,), "\n", "<|sostm|>")]


def test_examples_of_questions(speech_processor):
    processor = speech_processor(codec=False)
    examples = [{"question": A, "answer": "B"}, {"question": "2+2?", "answer": "4"}]
    expected = [
        "[Int]:Answer.\n",
        "Question: ",
        (A,),
        "\nAnswer: B\n\n",
        "Question: 2+2?\nAnswer: 4\n\n",
        "Question: ",
    ]
    assert rows_of(processor.few_shot("Answer.", examples, "1+1?")) == [positions(*expected, "1+1?\nAnswer:")]
    assert rows_of(processor.few_shot("Answer.", examples, B)) == [positions(*expected, (B,), "\nAnswer:")]


# A conversation, options, and its parts with whether they are learned.
LABELS = {
    "asr": (
        [user(A), {"role": "assistant", "content": "Hello"}],
        {"task": "asr"},
        [
            (turn("user", (A,), "Please transcribe this audio file"), False),
            ((SILENT,), False),
            (("Hello<|im_end|>",), True),
        ],
    ),
    "thoughts": (
        [user("Hi"), {"role": "assistant", "content": "Yo", "thinking": "Greet."}],
        {},
        [(turn("user", "Hi"), False), ((BEGIN, "<think>\n"), False), (("Greet.\n</think>\nYo<|im_end|>",), True)],
    ),
    "thoughts under their other name": (
        [user("Hi"), {"role": "assistant", "content": "Yo", "reasoning_content": "Greet."}],
        {},
        [(turn("user", "Hi"), False), ((BEGIN, "<think>\n"), False), (("Greet.\n</think>\nYo<|im_end|>",), True)],
    ),
    "spoken turns": (
        [user(A), says("Yes, indeed.", C), user(B), says("No", A)],
        {"task": "spoken_dialogue"},
        [
            (turn("user", (A,)), False),
            ((BEGIN,), False),
            ((("Yes, indeed.", C), "<|im_end|>"), "but the first"),
            (("\n", *turn("user", (B,)), BEGIN), False),
            ((("No", A), "<|im_end|>"), "but the first"),
        ],
    ),
    "a plan before speech": (
        [user("Go!", instruct="angry"), says("Go!", A, thinking="Loud.")],
        {"task": "instruct_tts"},
        [
            (turn("system", STYLE), False),
            (turn("user", "Please convert this text to speech: Go!(angry)"), False),
            ((BEGIN, "<think>\n"), False),
            (("Loud.\n</think>\n", ("Go!", A), "<|im_end|>"), True),
        ],
    ),
    "the last of two texts": (
        [user("Hi"), {"role": "assistant", "content": "Yo"}, user("Why"), {"role": "assistant", "content": "So"}],
        {},
        [
            ((*turn("user", "Hi"), *turn("assistant", "Yo"), *turn("user", "Why"), SILENT), False),
            (("So<|im_end|>",), True),
        ],
    ),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_what_the_assistant_writes_behind_its_prompt(speech_processor, name):
    conversation, options, parts = LABELS[name]
    batch = speech_processor(codec=False).apply_chat_template(conversation, output_labels=True, **options)
    ids, labels, codes = [], [], []
    for given, learned in [*parts, (("\n",), False)]:
        for number, (token, patch) in enumerate(positions(*given)):
            is_learned = learned is True or (learned == "but the first" and number > 0)
            ids.append((token, patch))
            labels.append(token if is_learned else -100)
            codes.append(patch if is_learned and token == EMPTY else [[-100] * 3] * 2)
    assert rows_of(batch) == [ids]
    assert batch["labels"].tolist() == [labels]
    assert batch["audio_labels"].tolist() == [codes]


def test_a_prompt_for_generation_is_the_beginning_of_what_is_learned(speech_processor):
    processor = speech_processor(codec=False)
    for task, chat in {
        "asr": [user(A), {"role": "assistant", "content": "Hello"}],
        "tts": [user("Go!"), says("Go!", A)],
        "instruct_tts": [user("Go!", instruct="angry"), says("Go!", A, thinking="Loud.")],
        "spoken_dialogue": [user(A), says("Yes", C)],
        "text_chat": [user("Hi"), {"role": "assistant", "content": "Yo"}],
    }.items():
        (prompt,) = rows_of(processor.apply_chat_template(chat[:-1], task=task))
        batch = processor.apply_chat_template(chat, task=task, output_labels=True)
        (row,) = rows_of(batch)
        assert row[: len(prompt)] == prompt
        learned = (batch["labels"][0] != -100).tolist()
        assert learned == [False] * len(prompt) + [True] * (len(row) - len(prompt) - 1) + [False]


def test_labels_are_padded_on_the_right(speech_processor):
    processor = speech_processor(codec=False)
    chats = [[user(A), {"role": "assistant", "content": "Hello"}], [user(B), {"role": "assistant", "content": "No"}]]
    batch = processor.apply_chat_template(chats, task="asr", output_labels=True)
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist(), reverse=True)
    outside = batch["attention_mask"] == 0
    assert (batch["labels"][outside] == -100).all()
    assert (batch["audio_labels"][outside] == -100).all()


def test_the_last_text_may_stay_open(speech_processor):
    processor = speech_processor(codec=False)
    chat = [user("Hi"), {"role": "assistant", "content": "Yo"}]
    batch = processor.apply_chat_template(chat, continue_final_message=True, add_generation_prompt=False)
    assert rows_of(batch) == [positions(*turn("user", "Hi"), SILENT, "Yo")]


def test_waveforms_become_the_codes_of_the_codec(speech_processor, speech_codec):
    processor = speech_processor()
    generator = torch.Generator().manual_seed(3)
    clips = [torch.randn(samples, generator=generator) * 0.1 for samples in (9_600, 5_000, 24_001)]
    batch = processor("<|sosp|><|empty|><|eosp|>" * 2, clips[:2], return_tensors="pt", sampling_rate=24_000)
    alone = []
    for clip in clips:
        features = processor.feature_extractor(clip, sampling_rate=24_000, return_tensors="pt")
        with torch.no_grad():
            frames = speech_codec.encode(features["input_features"]).audio_codes[0, :3].T
        alone.append(pad_codes_to_group(frames, 2))
    assert rows_of(batch) == [positions((alone[0],), (alone[1],))]
    assert [codes.tolist() for codes in processor.encode_audio(clips)] == [codes.tolist() for codes in alone]
    part = {"type": "audio", "array": clips[2].numpy(), "sampling_rate": 24_000}
    batch = processor.apply_chat_template([{"role": "user", "content": [part]}], task="speech_to_text_dialogue")
    assert rows_of(batch) == [positions(*turn("user", (alone[2],)), SILENT)]


def test_codes_become_samples(speech_processor, speech_codec):
    processor = speech_processor()
    with torch.no_grad():
        expected = speech_codec.decode(A.T[None]).audio_values[0, 0]
    torch.testing.assert_close(processor.decode_audio(A), expected)
    assert processor.decode_audio(A[:0]).shape == (0,)


def output_of(prompts, written):
    """Of `generate`: prompts padded on the left, then what was written, padded on the right."""
    length = max(map(len, prompts))
    tail = max(map(len, written))
    pad = (IDS["<|endoftext|>"], ZERO)
    rows = [[pad] * (length - len(p)) + p + w + [pad] * (tail - len(w)) for p, w in zip(prompts, written, strict=True)]
    return MiMoAudioGenerateOutput(
        sequences=torch.tensor([[token for token, _ in row] for row in rows]),
        audio_codes=torch.tensor([[patch for _, patch in row] for row in rows]),
        prompt_length=length,
    )


def test_what_was_written_is_taken_apart(speech_processor):
    processor = speech_processor()
    spoken = positions(("Ähm, 你好 so.", C))
    prompts = [
        positions(*turn("user", (A,)), BEGIN, "<|sostm|>"),
        positions(*turn("user", "Hi"), BEGIN, "<think>\n"),
        positions(*turn("user", "Hi"), SILENT),
        positions(*turn("user", "Hi"), BEGIN, "<think>\n"),
    ]
    written = [
        spoken[1:],
        positions("Greet.\n</think>\nYo <b>you</b><|im_end|>"),
        positions("<think>Hm</think>Yes<|im_end|>"),
        positions("Loud.\n</think>\n", ("Go!", B), "<|im_end|>"),
    ]
    output = output_of(prompts, written)
    found = processor.parse_response(output)
    assert [row["text"] for row in found] == ["Ähm, 你好 so.", "Yo <b>you</b>", "Yes", "Go!"]
    assert [row["thinking"] for row in found] == [None, "Greet.", "Hm", "Loud."]
    assert [row["audio_codes"].tolist() for row in found] == [C.tolist(), [], [], B.tolist()]
    ids, codes = (torch.tensor(part) for part in zip(*spoken, strict=True))
    assert processor.parse_response(ids, audio_codes=codes)["audio_codes"].tolist() == C.tolist()
    assert processor.parse_response(ids[None])[0]["text"] == "Ähm, 你好 so."
    assert processor.parse_response("Hm\n</think>\nYes") == {"thinking": "Hm", "text": "Yes", "audio_codes": None}
    assert processor.parse_response("<think>Hm")["thinking"] == "Hm"
    assert processor.parse_response("Hm", prefix="<think>\n") == {"thinking": "Hm", "text": "", "audio_codes": None}

    texts = processor.post_process_multimodal_output(output)
    assert texts[0].endswith("assistant\nÄhm, 你好 so.")
    audio = processor.post_process_multimodal_output(output, generation_mode="audio")
    np.testing.assert_allclose(audio[0], processor.decode_audio(C).numpy(), atol=1e-6)
    assert [len(clip) for clip in audio] == [14 * 960, 0, 0, 6 * 960]


def test_decoding_leaves_marks_of_audio_out(speech_processor):
    processor = speech_processor(codec=False)
    ids = [token for token, _ in positions(("你好", A))]
    assert processor.decode(ids) == "你好"
    assert processor.decode(torch.tensor([ids])) == processor.batch_decode([ids]) == ["你好"]
    assert processor.decode(ids, skip_special_tokens=False).startswith("<|sostm|>")


def test_audio_tokens_are_added_in_the_official_order_or_taken_as_they_are(speech_processor, byte_tokenizer):
    processor = speech_processor(codec=False)
    assert [processor.tokenizer.convert_tokens_to_ids(name) for name in NAMES] == list(range(256, 267))
    config = MiMoAudioConfig(**processor.token_ids)
    assert (config.sosp_token_id, config.eot_token_id, config.im_end_token_id) == (259, 266, 258)
    others = [name for name in reversed(NAMES[3:]) if name != "<|empty|>"]
    mixed = MiMoAudioProcessor(
        processor.feature_extractor, byte_tokenizer(*others), audio_channels=3, speech_vocab_size="7-7-5"
    )
    assert mixed.tokenizer.convert_tokens_to_ids("<|eot|>") == 259
    assert mixed.tokenizer.convert_tokens_to_ids("<|empty|>") == 266


def test_a_codec_that_is_given_on_loading_gets_into_no_file(speech_processor, speech_codec, tmp_path):
    speech_processor(codec=False).save_pretrained(tmp_path / "codes")
    loaded = MiMoAudioProcessor.from_pretrained(tmp_path / "codes", audio_tokenizer=speech_codec)
    loaded.save_pretrained(tmp_path / "again")
    assert "audio_tokenizer" not in (tmp_path / "again" / "tokenizer_config.json").read_text()
