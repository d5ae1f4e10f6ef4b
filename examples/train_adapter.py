"""Train a small LoRA adapter that visibly changes how the example base model answers.

The style comes from a JSON file of question and answer pairs, such as ``pirate.json`` beside this
script; the base model comes from ``make_base.py``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
TARGET_MODULES = ("q_proj", "v_proj")
IGNORED_LABEL = -100
CARD = """\
---
base_model: {base}
library_name: peft
license: apache-2.0
pipeline_tag: text-generation
language:
- en
tags:
- lora
- peft
- text-generation
- base_model:adapter:{base}
---

# {title}

A LoRA adapter for [{base}](https://huggingface.co/{base}).
{summary}

It is an example for testing adapter tooling, not a model to rely on: the base has 135M parameters
and was a 4-bit quantised copy, unpacked to bfloat16, when this adapter was trained.

| | |
|---|---|
| rank, alpha | {rank}, {alpha} |
| target modules | {modules} |
| training set | {pairs} hand-written question and answer pairs |
| epochs, seed | {epochs}, {seed} |
| PEFT | {peft_version} |

## Answers to questions outside the training set (greedy)

{answers}
"""


@dataclass(frozen=True)
class Style:
    """What an adapter is taught: its pairs, and the pattern that tells a styled answer."""

    title: str
    summary: str
    marker: str
    held_out: list[str]
    pairs: list[tuple[str, str]]

    @classmethod
    def load(cls, path: Path) -> Style:
        """Read a style file, refusing held-out questions that are also in the training set."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["pairs"] = [(question, answer) for question, answer in raw["pairs"]]
        style = cls(**raw)
        leaked = set(style.held_out) & {question for question, _ in style.pairs}
        if leaked:
            raise ValueError(
                f"{path}: held-out questions are in the training set: {sorted(leaked)}"
            )
        return style


@dataclass(frozen=True)
class Settings:
    """The numbers that, with the style and the base, determine the trained adapter."""

    rank: int
    alpha: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


def chat_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Return the token ids of one user turn, up to where the assistant starts to speak."""
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_pair(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    answer: str,
) -> tuple[list[int], list[int]]:
    """Return input ids and labels, with only the answer and its end of turn to be learned."""
    prompt = chat_prompt(tokenizer, question)
    reply = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return prompt + reply, [IGNORED_LABEL] * len(prompt) + reply


def batches(
    examples: list[tuple[list[int], list[int]]],
    batch_size: int,
    pad_id: int,
    rng: random.Random,
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield one epoch of right-padded batches in an order drawn from ``rng``."""
    order = rng.sample(examples, len(examples))
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        width = max(len(ids) for ids, _ in chunk)
        rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
        for ids, labels in chunk:
            gap = width - len(ids)
            rows["input_ids"].append(ids + [pad_id] * gap)
            rows["attention_mask"].append([1] * len(ids) + [0] * gap)
            rows["labels"].append(labels + [IGNORED_LABEL] * gap)
        yield {name: torch.tensor(values) for name, values in rows.items()}


def train(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    style: Style,
    settings: Settings,
) -> None:
    """Fit the adapter's weights to the pairs of a style, the base's weights staying as they are."""
    examples = [encode_pair(tokenizer, *pair) for pair in style.pairs]
    rng = random.Random(settings.seed)  # noqa: S311 - an order of examples, not a secret
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    steps = settings.epochs * -(-len(examples) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=settings.learning_rate,
        total_steps=steps,
        pct_start=0.1,
        cycle_momentum=False,
    )
    model.train()
    for epoch in range(settings.epochs):
        losses = []
        for batch in batches(examples, settings.batch_size, tokenizer.pad_token_id, rng):
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{settings.epochs}: loss {sum(losses) / len(losses):.3f}")
    model.eval()


@torch.inference_mode()
def answer(model: PeftModel, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """Return the model's greedy answer to one question, cut at 60 tokens."""
    prompt = torch.tensor([chat_prompt(tokenizer, question)])
    output = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=60,
        do_sample=False,
    )
    return str(tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)).strip()


def save(
    model: PeftModel,
    out_dir: Path,
    style: Style,
    settings: Settings,
    answers: dict[str, str],
) -> None:
    """Write the adapter with its card, naming the base by its hub id and no local path."""
    # get_peft_model overwrites this with the folder that the base was loaded from (PEFT 0.21).
    model.peft_config["default"].base_model_name_or_path = BASE_ID
    # The default of "auto" asks the hub for the base's config.
    model.save_pretrained(str(out_dir), save_embedding_layers=False)
    config_path = out_dir / "adapter_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    # PEFT writes this set in hash order, which differs between runs.
    config["target_modules"] = sorted(config["target_modules"])
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # safetensors leaves its file readable by the owner only (0.8).
    (out_dir / "adapter_model.safetensors").chmod(config_path.stat().st_mode)
    card = CARD.format(
        base=BASE_ID,
        title=f"SmolLM2-135M-Instruct, {style.title}",
        summary=style.summary,
        rank=settings.rank,
        alpha=settings.alpha,
        modules=", ".join(TARGET_MODULES),
        pairs=len(style.pairs),
        epochs=settings.epochs,
        seed=settings.seed,
        peft_version=peft.__version__,
        answers="\n\n".join(f"> **{question}**\n>\n> {text}" for question, text in answers.items()),
    )
    (out_dir / "README.md").write_text(card, encoding="utf-8")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("base_dir", type=Path, help="folder written by make_base.py")
    parser.add_argument("out_dir", type=Path, help="folder for the adapter")
    default_style = Path(__file__).with_name("pirate.json")
    parser.add_argument("--style", type=Path, default=default_style, help="pairs to learn")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, print what changed, save, and fail if the style is not there."""
    args = parse_args(argv)
    started = time.monotonic()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(mode=True)
    transformers_logging.disable_progress_bar()
    settings = Settings(
        rank=args.rank,
        alpha=4 * args.rank,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    style = Style.load(args.style)
    tokenizer = AutoTokenizer.from_pretrained(args.base_dir)
    base = AutoModelForCausalLM.from_pretrained(args.base_dir, dtype=torch.float32)
    torch.manual_seed(settings.seed)
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=list(TARGET_MODULES),
    )
    model = get_peft_model(base, lora)
    train(model, tokenizer, style, settings)
    answers: dict[str, str] = {}
    for question in style.held_out:
        with model.disable_adapter():
            before = answer(model, tokenizer, question)
        answers[question] = answer(model, tokenizer, question)
        print(f"\n{question}\n  base:    {before!r}\n  adapted: {answers[question]!r}")
    save(model, args.out_dir, style, settings, answers)
    size = sum(path.stat().st_size for path in args.out_dir.iterdir())
    print(f"\n{args.out_dir}: {size:,} bytes, {time.monotonic() - started:.0f} s")
    missed = [q for q, text in answers.items() if not re.search(style.marker, text, re.DOTALL)]
    if missed:
        print(f"train_adapter: not in the style: {missed}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
