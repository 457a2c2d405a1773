"""
Prompts of MiMo-Audio's tasks (arXiv 2512.23808 and the official inference code): conversations as the chat template takes them.

In a rendered prompt `<|sosp|><|empty|><|eosp|>` is the place of a clip, and `<|sostm|>` text `<|empty|><|eostm|>` that of interleaved
text and speech; the processor puts the patches there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

CLIP = "<|sosp|><|empty|><|eosp|>"
MARKERS = ("<|sosp|>", "<|eosp|>", "<|empty|>", "<|sostm|>", "<|eostm|>", "<|eot|>")
PLACES = re.compile(
    r"(?P<clip><\|sosp\|><\|empty\|><\|eosp\|>)|<\|sostm\|>(?P<said>(?:(?!<\|sostm\|>|<\|eostm\|>).)*?)<\|empty\|><\|eostm\|>",
    re.DOTALL,
)

# How the turn to be written begins. The first three write text, the others speech.
TASKS = ("asr", "understanding", "text_chat", "speech_to_text_dialogue", "tts", "instruct_tts", "spoken_dialogue")
SPEAKING = ("tts", "spoken_dialogue")
THINKING = ("understanding", "text_chat", "speech_to_text_dialogue")

# The first of each language is the official code's; the others are variations of our own, for `rng`.
ASR_TEMPLATES = (
    "Please transcribe this audio file",
    "Please write down what is said in this recording",
    "What does the speaker say? Write it out",
    "请将这段语音转换为文字",
    "请写出这段录音的内容",
)
TTS_TEMPLATES = {
    "en": (
        "Please convert this text to speech",
        "Please read this text aloud",
        "Please say the following text",
    ),
    "zh": ("请将这段文字转换为语音", "请朗读这段文字", "请读出下面的文字"),
}
STYLE_SYSTEM = "你需要根据指定的风格指令和文本内容来生成语音。"
STYLE_AND_VOICE_SYSTEM = "你需要根据指定的风格指令和文本内容来生成和语音prompt具有相同音色的语音。你的音色应该是："
VOICE_SYSTEM = "Your voice should be:"
CJK = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")

CHAT_TEMPLATE = r"""
{%- macro parts(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {{- '<|sosp|><|empty|><|eosp|>' if part.type == 'audio' else part.text -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro words(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content if part.type != 'audio' -%}{{- part.text -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\n' -}}
    {%- if message.role != 'assistant' -%}
        {{- parts(message.content) + '<|im_end|>\n' -}}
    {%- else -%}
        {%- set speaks = message.content is not string and message.content | selectattr('type', 'equalto', 'audio') | list -%}
        {%- if loop.last and message.thinking -%}
            {{- '<think>\n' -}}
            {%- generation -%}
                {{- message.thinking + '\n</think>\n' -}}
                {{- '<|sostm|>' + words(message.content) + '<|empty|><|eostm|>' if speaks else words(message.content) -}}
                {{- '<|im_end|>' -}}
            {%- endgeneration -%}
        {%- elif speaks -%}
            {{- '<|sostm|>' -}}
            {%- generation -%}
                {{- words(message.content) + '<|empty|><|eostm|>' + '<|im_end|>' -}}
            {%- endgeneration -%}
        {%- elif loop.last -%}
            {{- '<think>\n\n</think>\n' -}}
            {%- generation -%}{{- words(message.content) + '<|im_end|>' -}}{%- endgeneration -%}
        {%- else -%}
            {{- words(message.content) + '<|im_end|>' -}}
        {%- endif -%}
        {{- '\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' -}}
    {%- if speech -%}
        {{- '<|sostm|>' -}}
    {%- elif thinking -%}
        {{- '<think>\n' -}}
    {%- else -%}
        {{- '<think>\n\n</think>\n' -}}
    {%- endif -%}
{%- endif -%}
""".strip()

Message = dict[str, Any]


def task_messages(
    conversation: Sequence[Mapping[str, Any]],
    task: str | None = None,
    template: str | None = None,
    rng: Random | None = None,
    capitalize: bool = False,
) -> list[Message]:
    """
    A conversation as the official code words it for a task.

    Args:
        conversation: messages with `role` (`system`, `user` or `assistant`) and `content`, a text or a list of parts `{"type": "text",
            "text": ...}` and `{"type": "audio", ...}`. A user's message may have `instruct`, the style for `instruct_tts`; an assistant's
            `thinking` or `reasoning_content`.
        task: one of `TASKS`; None: nothing is worded.
        template: the sentence that asks, for `asr`, `tts` and `instruct_tts`; None: the official code's first one.
        rng: draws that sentence.
        capitalize: for `tts` and `instruct_tts`, texts all in capitals or all in small letters get a capital first letter only, as in the
            official code.

    Returns:
        Messages whose contents are lists of parts.

    Raises:
        ValueError: an unknown task, a message without its parts, text with markers of the layout, or a conversation that does not fit.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}, or None; got {task!r}.")
    messages = _normalised(conversation)
    if task == "asr":
        for message in _users(messages, "asr", needs="audio"):
            if not _has(message, "text"):
                asked = template or (rng.choice(ASR_TEMPLATES) if rng else ASR_TEMPLATES[0])
                message["content"].append({"type": "text", "text": asked})
    elif task in ("tts", "instruct_tts"):
        for message in _users(messages, task, needs="text"):
            message["content"] = [{"type": "text", "text": _spoken_text(message, task, template, rng, capitalize)}]
        if task == "instruct_tts":
            _add_style_system(messages)
    elif task == "spoken_dialogue":
        _move_system_text(messages)
    return messages


def collect_clips(messages: Iterable[Message]) -> list[Message]:
    """The audio parts of messages, in the order of their places in the rendered text."""
    return [part for message in messages for part in message["content"] if part["type"] == "audio"]


def _normalised(conversation: Sequence[Mapping[str, Any]]) -> list[Message]:
    if isinstance(conversation, Mapping | str) or len(conversation) == 0:
        raise ValueError(
            "`conversation` must be a list of messages, such as [{'role': 'user', 'content': 'Hello'}]; got "
            f"{type(conversation).__name__} of {len(conversation)}."
        )
    messages: list[Message] = []
    for number, given in enumerate(conversation):
        role, content = given.get("role"), given.get("content")
        if role not in ("system", "user", "assistant") or (role == "system" and number > 0):
            raise ValueError(
                f"`conversation[{number}]['role']` must be user or assistant, or system in the first message; got {role!r}."
            )
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list | tuple) or len(content) == 0:
            raise ValueError(
                f"`conversation[{number}]['content']` must be a text or a list of parts; got {content!r}. A part is {{'type': 'text', "
                "'text': ...} or {'type': 'audio', 'path': ...}."
            )
        parts = [
            _checked_part(part, f"conversation[{number}]['content'][{place}]") for place, part in enumerate(content)
        ]
        message = {"role": role, "content": parts}
        if role == "assistant":
            if sum(part["type"] == "audio" for part in parts) > 1:
                raise ValueError(
                    f"`conversation[{number}]['content']` must have one clip, as its text and speech are interleaved; got "
                    f"{sum(part['type'] == 'audio' for part in parts)}. Join them."
                )
            thought = given.get("thinking", given.get("reasoning_content"))
            if thought:
                message["thinking"] = _checked_text(thought, f"conversation[{number}]['thinking']")
        elif role == "user" and given.get("instruct"):
            message["instruct"] = _checked_text(given["instruct"], f"conversation[{number}]['instruct']")
        messages.append(message)
    return messages


def _checked_part(part: Any, name: str) -> Message:
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    if not isinstance(part, Mapping) or part.get("type") not in ("text", "audio"):
        raise ValueError(f"`{name}` must have the type 'text' or 'audio'; got {part!r}.")
    if part["type"] == "text":
        return {"type": "text", "text": _checked_text(part.get("text"), name)}
    return dict(part)


def _checked_text(text: Any, name: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"`{name}` must be a text; got {text!r}.")
    found = [marker for marker in MARKERS if marker in text]
    if found:
        raise ValueError(
            f"`{name}` must be text without markers of audio; got {found[0]!r} in it. Give audio as a part."
        )
    return text


def _has(message: Message, kind: str) -> bool:
    return any(part["type"] == kind for part in message["content"])


def _users(messages: list[Message], task: str, needs: str) -> list[Message]:
    users = [message for message in messages if message["role"] == "user"]
    other = {"text": "audio", "audio": None}[needs]
    for message in users:
        if not _has(message, needs) or (other and _has(message, other)):
            raise ValueError(
                f"`conversation` must have {needs} in each message of the user for task {task!r}; got "
                f"{[part['type'] for part in message['content']]}."
            )
    if not users:
        raise ValueError(f"`conversation` must have a message of the user for task {task!r}; got none.")
    return users


def _text_of(parts: list[Message]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _spoken_text(message: Message, task: str, template: str | None, rng: Random | None, capitalize: bool) -> str:
    text = _text_of(message["content"])
    if not text.strip():
        raise ValueError(f"`conversation` must have a text to speak for task {task!r}; got {text!r}.")
    if capitalize and (text.isupper() or text.islower()):
        text = text.capitalize()
    style = message.pop("instruct", None)
    if task == "instruct_tts" and style is None:
        return text
    templates = TTS_TEMPLATES["zh" if CJK.search(text) else "en"]
    asked = template or (rng.choice(templates) if rng else templates[0])
    return f"{asked}: {text}" + (f"({style})" if task == "instruct_tts" else "")


def _add_style_system(messages: list[Message]):
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": STYLE_SYSTEM}]})
    elif not _has(messages[0], "text"):
        messages[0]["content"].insert(0, {"type": "text", "text": STYLE_AND_VOICE_SYSTEM})


def _move_system_text(messages: list[Message]):
    """A system's text goes in front of the first user's turn, its clip becomes the voice to speak with."""
    if messages[0]["role"] != "system":
        return
    content = messages[0]["content"]
    text, clips = _text_of(content), [part for part in content if part["type"] == "audio"]
    users = [message for message in messages if message["role"] == "user"]
    if text:
        if not users:
            raise ValueError("`conversation` must have a message of the user behind that of the system; got none.")
        users[0]["content"].insert(0, {"type": "text", "text": f"{text}\n\n"})
    if clips:
        messages[0]["content"] = [{"type": "text", "text": VOICE_SYSTEM}, *clips]
    else:
        del messages[0]


__all__ = [
    "CHAT_TEMPLATE",
    "CLIP",
    "MARKERS",
    "PLACES",
    "SPEAKING",
    "TASKS",
    "THINKING",
    "collect_clips",
    "task_messages",
]
