"""Second stages of STCnet that the paper does not have: attention at another place, and what a reader would try in its stead.

Each takes what `TemporalAttentionGenerator` takes and has its encoders and decoder; only what lies between them differs:
- "early attention": the neighbours are rearranged before the dilated convolutions instead of behind them;
- "non-local": a non-local block over all positions of the three frames;
- "space-time": two 3-D convolutions over the three frames, then that block;
- "alone matched": no neighbours, and one encoder so wide that the stage has as many weights as the three encoders' (the paper's control has far more).
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dgnb.layers import count_parameters
from dgnb.scales import choose

from .attention import TemporalAttentionGenerator
from .spatial import Decoder, Encoder
from .video_reid import NonLocalBlock

__all__ = ["SECOND_STAGES", "SpaceTimeGenerator", "MatchedGenerator", "second_stage"]

EXCHANGES = ("early attention", "non-local", "space-time")  # between the frames
SECOND_STAGES = (*EXCHANGES, "alone matched")


class SpaceTimeGenerator(TemporalAttentionGenerator):
    """Encoders and decoder of G_t with another exchange between the frames (ours); starts as the stage without exchange, attention excepted."""

    def __init__(
        self,
        width: int = 64,  # channels of the first convolution
        dilations: Sequence[int] = (2, 4, 8, 16),  # rates of the dilated convolutions
        kind: str = "space-time",  # one of `EXCHANGES`
        **options,  # scale and values of the attention
    ):
        super().__init__(width, dilations, stage="neighbours", **options)
        self.kind, channels = choose(kind, EXCHANGES, "second stage"), self.current.channels
        self.depth = len(self.current.layers) - 2 * len(dilations)  # layers before the dilated ones: a convolution and an ELU each
        if kind == "space-time":
            self.volume = nn.Sequential(nn.Conv3d(channels, channels, 3, 1, 1), nn.ELU(), nn.Conv3d(channels, channels, 3, 1, 1))
            nn.init.zeros_(self.volume[-1].weight)
            nn.init.zeros_(self.volume[-1].bias)
        if kind != "early attention":
            self.block = NonLocalBlock(channels)

    def features(self, coarse: torch.Tensor, previous: torch.Tensor, following: torch.Tensor) -> list[torch.Tensor]:  # B x 3 x H x W each
        """What the decoder sees, of each of the three frames."""
        if self.kind == "early attention":
            return self._rearranged_early(coarse, previous, following)
        maps = torch.stack(super().features(coarse, previous, following), 2)  # B x C x 3 x h x w
        if self.kind == "space-time":
            maps = maps + self.volume(maps)
        clips = maps.transpose(1, 2).flatten(0, 1)  # three frames of each clip one after the other
        return list(self.block(clips, 3).unflatten(0, (len(coarse), 3)).unbind(1))

    def _rearranged_early(self, coarse: torch.Tensor, previous: torch.Tensor, following: torch.Tensor) -> list[torch.Tensor]:
        """Attention between the halves of the encoders."""
        encoders, images = (self.current, self.previous, self.following), (coarse, previous, following)
        now, *around = (encoder.layers[:self.depth](image) for encoder, image in zip(encoders, images))
        return [encoder.layers[self.depth:](x) for encoder, x in zip(encoders, [now, *(self.attention(now, near) for near in around)])]


class MatchedGenerator(TemporalAttentionGenerator):
    """An autoencoder without neighbours, of the size of the stage with three encoders: the control for depth that VRSTC's "AE" is not."""

    def __init__(
        self,
        width: int = 64,  # channels of the first convolution of that stage
        dilations: Sequence[int] = (2, 4, 8, 16),  # rates of the dilated convolutions
        **options,  # scale and values of an attention that is not used
    ):
        super().__init__(width, dilations, stage="alone", **options)
        wanted = count_parameters(TemporalAttentionGenerator(width, dilations, stage="neighbours"))
        make = lambda wide: nn.ModuleList([Encoder(3, wide, dilations), Decoder(4 * wide, width)])
        self.current, self.decoder = min(map(make, range(width, 3 * width + 1)), key=lambda pair: abs(count_parameters(pair) - wanted))


def second_stage(
    kind: str,  # of STCnet: one of `SECOND_STAGES`, or a stage of `TemporalAttentionGenerator`
    width: int,  # channels of the first convolution
    dilations: Sequence[int],  # rates of the dilated convolutions
    scale: float,  # of the attention's cosine
    values: str,  # what attention sums
) -> TemporalAttentionGenerator:
    """The second stage of that name."""
    if kind == "alone matched":
        return MatchedGenerator(width, dilations, scale=scale, values=values)
    if kind in EXCHANGES:
        return SpaceTimeGenerator(width, dilations, kind, scale=scale, values=values)
    return TemporalAttentionGenerator(width, dilations, scale, values, kind)
