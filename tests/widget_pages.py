"""The five pages with sliders, small and untrained: for tests without a browser, and for the notebook that JupyterLab opens."""
import torch

from dgnb.augmentation import normalise
from dgnb.dgnet.generating import Mixer
from dgnb.dgnet.joint import DGNet
from dgnb.dgnet.step import dgnet_settings, make_networks
from dgnb.scales import generator, seed_everything
from dgnb.vrstc.spatial import band_masks, to_signed
from dgnb.widgets import Page, chunk_page, mannequin_page, swap_page, temperature_page, threshold_page
from dgnb.worlds import make_world

MOVED = {"swap": "clothes", "chunk": "chunk_2", "threshold": "threshold", "temperature": "scale", "mannequin": "turned"}  # page -> the slider that a browser moves
BANDS = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, 0.9], [0.0, 0.0, 0.8], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # hidden shares, 6 frames


def mixer() -> Mixer:
    """Untrained networks and five people."""
    world, plan = make_world("mannequin-market", scale="smoke"), dgnet_settings("smoke")
    seed_everything("widgets", 0)
    nets = make_networks(plan, world.num_train_identities)
    return Mixer(DGNet(nets.appearance, nets.structure, nets.decoder, plan), normalise(world.images(world.query[:5]).permute(0, 3, 1, 2)))


def tracklet() -> tuple[torch.Tensor, torch.Tensor]:
    """Six frames, and features in which something else shows through by the hidden share."""
    g = generator("tracklet of widgets")
    person, other = torch.rand(1, 3, 8, generator=g), torch.rand(1, 3, 8, generator=g)
    features = person + 0.05 * torch.rand(6, 3, 8, generator=g) + 2 * BANDS[..., None] * (other - person)
    return torch.randint(256, (6, 64, 32, 3), dtype=torch.uint8, generator=g), features


def pages() -> dict[str, Page]:
    """All five, by name."""
    frames, features = tracklet()
    people = mixer()
    two = to_signed(frames[:2].permute(0, 3, 1, 2))
    return {"swap": swap_page(people, list("abcde")), "chunk": chunk_page(people), "threshold": threshold_page(frames, features, BANDS),
            "temperature": temperature_page((two[:1], two[1:]), band_masks(torch.tensor([[False, False, True]]), (64, 32))), "mannequin": mannequin_page(size=(64, 32))}
