"""Which class of transformers loads an architecture, and what the Hub calls its task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadClass:
    """The Auto classes of the model and its tokenizer or processor; the task, if one is clear."""

    model: str
    task: str | None
    processor: str = "AutoTokenizer"

    @property
    def variable(self) -> str:
        """What code calls the tokenizer or processor."""
        return self.processor.removeprefix("Auto").lower()


_ENDINGS: dict[str, LoadClass] = {
    "ForCausalLM": LoadClass("AutoModelForCausalLM", "text-generation"),
    "LMHeadModel": LoadClass("AutoModelForCausalLM", "text-generation"),
    "ForSequenceClassification": LoadClass(
        "AutoModelForSequenceClassification", "text-classification"
    ),
    "ForTokenClassification": LoadClass("AutoModelForTokenClassification", "token-classification"),
    "ForQuestionAnswering": LoadClass("AutoModelForQuestionAnswering", "question-answering"),
    "ForMaskedLM": LoadClass("AutoModelForMaskedLM", "fill-mask"),
    "ForImageClassification": LoadClass(
        "AutoModelForImageClassification", "image-classification", "AutoImageProcessor"
    ),
}
"""By the end of the class name in config.json."""

_SEQ2SEQ = LoadClass("AutoModelForSeq2SeqLM", None)
_SPEECH = LoadClass("AutoModelForSpeechSeq2Seq", "automatic-speech-recognition", "AutoProcessor")
_VISION = LoadClass("AutoModelForImageTextToText", "image-text-to-text", "AutoProcessor")

_SEQ2SEQ_TYPES = (
    "bart",
    "blenderbot",
    "blenderbot-small",
    "led",
    "longt5",
    "m2m_100",
    "mbart",
    "mt5",
    "pegasus",
    "pegasus_x",
    "plbart",
    "prophetnet",
    "switch_transformers",
    "t5",
    "t5gemma",
    "umt5",
)

_CONDITIONAL: dict[str, LoadClass] = {
    **dict.fromkeys(_SEQ2SEQ_TYPES, _SEQ2SEQ),
    **dict.fromkeys(("whisper", "moonshine", "speech_to_text"), _SPEECH),
}
"""Model types whose ``...ForConditionalGeneration`` takes no images (transformers 5.23)."""

_UNKNOWN = LoadClass("AutoModel", None)


def load_class(architecture: str | None, model_type: str | None = None) -> LoadClass:
    """Return how a checkpoint of this architecture is loaded; AutoModel when nothing is known."""
    if architecture is None:
        return _UNKNOWN
    if architecture.endswith("ForConditionalGeneration"):
        return _CONDITIONAL.get(model_type or "", _VISION)
    for ending, loaded in _ENDINGS.items():
        if architecture.endswith(ending):
            return loaded
    return _UNKNOWN
