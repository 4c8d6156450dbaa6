"""The encoder of all-MiniLM-L6-v2 in plain torch: its usual library is too large to install for one model.

BERT (J. Devlin et al., NAACL 2019), then the mean of the tokens' vectors, scaled to length 1. Sizes and
epsilon are those of the package's config.json.
"""

import torch
from torch import nn

VOCABULARY, POSITIONS, WIDTH, HEADS, INNER, LAYERS, EPSILON = 30522, 512, 384, 12, 1536, 6, 1e-12
RENAMED = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
    "encoder.layer.": "layers.",
    "attention.self.": "",
    "attention.output.dense": "mix",
    "attention.output.LayerNorm": "mix_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "narrow_norm",
}
"""From the names of the weights in the package's file to ours, replaced in this order."""


class Layer(nn.Module):
    """Attention, then two dense layers; what comes in is added to what each makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.widen, self.narrow = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.mix_norm, self.narrow_norm = nn.LayerNorm(WIDTH, EPSILON), nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, tokens: torch.Tensor, unseen: torch.Tensor) -> torch.Tensor:
        heads = [
            dense(tokens).unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for dense in (self.query, self.key, self.value)
        ]
        seen = nn.functional.scaled_dot_product_attention(*heads, attn_mask=unseen)
        tokens = self.mix_norm(tokens + self.mix(seen.transpose(1, 2).flatten(2)))
        return self.narrow_norm(tokens + self.narrow(nn.functional.gelu(self.widen(tokens))))


class Encoder(nn.Module):
    """From token ids and their mask, both (rows, tokens), to vectors of length 1, (rows, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.types, self.norm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        places = torch.arange(input_ids.shape[1])
        tokens = self.norm(self.words(input_ids) + self.positions(places) + self.types.weight[0])
        mask = attention_mask.to(tokens.dtype)
        unseen = (1 - mask[:, None, None]) * torch.finfo(tokens.dtype).min
        for layer in self.layers:
            tokens = layer(tokens, unseen)
        total = (tokens * mask[..., None]).sum(1)
        return nn.functional.normalize(total / mask.sum(1, keepdim=True).clamp(min=1))


def encoder(weights: dict[str, torch.Tensor]) -> Encoder:
    """The encoder with the weights of the package's file; sentence vectors have no use for its pooler."""
    net = Encoder().eval()
    ours = {_renamed(name): tensor for name, tensor in weights.items()}
    net.load_state_dict({name: ours[name] for name in net.state_dict()})
    return net


def _renamed(name: str) -> str:
    for theirs, ours in RENAMED.items():
        name = name.replace(theirs, ours)
    return name
