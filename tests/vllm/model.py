"""Makes a tiny Llama with random weights, and LoRA adapters for it: `python model.py FOLDER CORPUS`, with the Python of vLLM.

Nothing is downloaded. 2.6 million parameters (5 MB), 1 KiB of KV cache a token; what it writes is noise, and costs what it costs. Its
tokenizer is trained on the text files of the folder CORPUS, so that a token of English has as many bytes as usual.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ADAPTERS = ("sql", "chat", "code")
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, FORWARD, VOCABULARY, POSITIONS = 256, 2, 4, 2, 64, 512, 4096, 32768
RANK = 8
BEGIN, END, PAD, OPEN, CLOSE = "<|begin|>", "<|end|>", "<|pad|>", "<|turn|>", "<|over|>"
TEMPLATE = (
    "{% for m in messages %}" + OPEN + "{{ m['role'] }}\n{{ m['content'] }}" + CLOSE + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + OPEN + "assistant\n{% endif %}"
)


def tokenizer(folder: Path, corpus: Path) -> None:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, END, PAD, OPEN, CLOSE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train(sorted(map(str, corpus.rglob("*.md"))), trainer)
    made.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


def weights(folder: Path) -> None:
    dice = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=dice) * 0.02).to(torch.bfloat16)

    ones = torch.ones(HIDDEN, dtype=torch.bfloat16)
    found = {
        "model.embed_tokens.weight": random(VOCABULARY, HIDDEN),
        "model.norm.weight": ones.clone(),
        "lm_head.weight": random(VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        found |= {
            f"{at}input_layernorm.weight": ones.clone(),
            f"{at}post_attention_layernorm.weight": ones.clone(),
            f"{at}self_attn.q_proj.weight": random(HEADS * HEAD, HIDDEN),
            f"{at}self_attn.k_proj.weight": random(KV_HEADS * HEAD, HIDDEN),
            f"{at}self_attn.v_proj.weight": random(KV_HEADS * HEAD, HIDDEN),
            f"{at}self_attn.o_proj.weight": random(HIDDEN, HEADS * HEAD),
            f"{at}mlp.gate_proj.weight": random(FORWARD, HIDDEN),
            f"{at}mlp.up_proj.weight": random(FORWARD, HIDDEN),
            f"{at}mlp.down_proj.weight": random(HIDDEN, FORWARD),
        }
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    _write(
        folder / "config.json",
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD,
        max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-6,
        hidden_act="silu",
        tie_word_embeddings=False,
        torch_dtype="bfloat16",
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def adapter(folder: Path, base: Path, seed: int) -> None:
    """In the layout of peft, for the projections of the attention."""
    folder.mkdir(exist_ok=True)
    dice = torch.Generator().manual_seed(seed)
    found = {}
    for layer in range(LAYERS):
        for name, width in (("q_proj", HEADS * HEAD), ("k_proj", KV_HEADS * HEAD), ("v_proj", KV_HEADS * HEAD)):
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for part, shape in (("lora_A", (RANK, HIDDEN)), ("lora_B", (width, RANK))):
                found[f"{at}.{part}.weight"] = (torch.randn(*shape, generator=dice) * 0.1).to(torch.bfloat16)
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    _write(
        folder / "adapter_config.json",
        peft_type="LORA",
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
        r=RANK,
        lora_alpha=2 * RANK,
        lora_dropout=0.0,
        bias="none",
        target_modules=["q_proj", "k_proj", "v_proj"],
    )


def _write(file: Path, **content: object) -> None:
    file.write_text(json.dumps(content, indent=1))


def main() -> None:
    folder, corpus = map(Path, sys.argv[1:])
    base = folder / "base"
    base.mkdir(parents=True, exist_ok=True)
    tokenizer(base, corpus)
    weights(base)
    for seed, name in enumerate(ADAPTERS, 1):
        adapter(folder / name, base, seed)
    (folder / ".complete").touch()


if __name__ == "__main__":
    main()
