"""Views on the device that trains: the stored images go there, and torch draws their views.

The same draws as on the CPU and one bilinear resampling, in float32. Against OpenCV a grey value
differs where rounding falls the other way: by 1, seldom by 2 where a view is stretched.

Axes: M images, B samples, V views a sample, N views of a batch together, H and W rows and
columns, S side of a view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .draw import ViewDraw, homography
from .warp import Pixels

CHUNK = 64  # views drawn together; bounds the memory that their coordinates take


@dataclass(frozen=True, kw_only=True)
class DeferredViews:
    """Views that are drawn where they are needed; sliced and moved like a tensor [B, V, S, S].

    Of view [b, v] `source` is its image among `images` uint8 [M, H, W], `corner` [B, V, 2] the row
    and column at which its crop begins, `back` [B, V, 3, 3] the matrix from its pixel centres to
    those of the crop, and `stretched` [B, V] says whether its grey values fill the range.
    """

    images: Tensor
    source: Tensor
    corner: Tensor
    back: Tensor
    stretched: Tensor
    size: int

    @property
    def shape(self) -> torch.Size:
        """The shape that the views will have."""
        return torch.Size([*self.source.shape, self.size, self.size])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, part: slice) -> DeferredViews:
        return DeferredViews(
            images=self.images,
            source=self.source[part],
            corner=self.corner[part],
            back=self.back[part],
            stretched=self.stretched[part],
            size=self.size,
        )

    @torch.no_grad()
    def to(self, device: torch.device, *, non_blocking: bool = False) -> Tensor:
        """Return the views, uint8 [B, V, S, S], drawn on a device."""
        used, source_BV = torch.unique(self.source, return_inverse=True)
        images = self.images if len(used) == len(self.images) else self.images[used]
        parts = (source_BV.flatten(), self.corner.flatten(0, 1), self.back.flatten(0, 1))
        images_MHW, source_N, corner_N2, back_N33, stretched_N = (
            part.to(device, non_blocking=non_blocking)
            for part in (images, *parts, self.stretched.flatten())
        )
        # in half precision the coordinates would be lost
        with torch.autocast(device.type, enabled=False):
            drawn = [
                _stretched(
                    _warped(
                        _crops(images_MHW, source_N[part], corner_N2[part], self.size),
                        back_N33[part],
                    ),
                    stretched_N[part],
                )
                for part in (
                    slice(first, first + CHUNK) for first in range(0, len(source_N), CHUNK)
                )
            ]
        return torch.cat(drawn).view(self.shape)


def defer(
    images_MHW: Pixels, source_BV: NDArray[np.int64], draws: list[list[ViewDraw]], *, size: int
) -> DeferredViews:
    """Return the views of `draws` [B][V], each of the image that `source_BV` names."""
    sides = images_MHW.shape[1:]
    back = [[np.linalg.inv(homography(d, size=size)) for d in row] for row in draws]
    return DeferredViews(
        images=torch.from_numpy(np.ascontiguousarray(images_MHW)),
        source=torch.from_numpy(source_BV),
        corner=torch.tensor([[d.place(sides, size) for d in row] for row in draws]),
        back=torch.from_numpy(np.asarray(back, dtype=np.float32)),
        stretched=torch.tensor([[d.autocontrast for d in row] for row in draws]),
        size=size,
    )


def _crops(images_MHW: Tensor, source_N: Tensor, corner_N2: Tensor, size: int) -> Tensor:
    along_S = torch.arange(size, device=images_MHW.device)
    rows_NS1 = (corner_N2[:, :1] + along_S)[:, :, None]
    columns_N1S = (corner_N2[:, 1:] + along_S)[:, None]
    return images_MHW[source_N[:, None, None], rows_NS1, columns_N1S]


def _warped(crops_NSS: Tensor, back_N33: Tensor) -> Tensor:
    """Return the crops resampled bilinearly, zeros outside, rounded; float32 [N, S, S]."""
    S = crops_NSS.shape[-1]
    along_S = torch.arange(S, device=crops_NSS.device, dtype=torch.float32)
    # products by hand: a matrix product may be rounded to fewer digits on a GPU
    x_N3SS, y_N3SS, one_N3SS = (part[:, :, None, None] for part in back_N33.unbind(2))
    at_N3SS = x_N3SS * along_S[None, None, None, :] + y_N3SS * along_S[None, None, :, None]
    at_N3SS = at_N3SS + one_N3SS
    grid_NSS2 = (at_N3SS[:, :2] / at_N3SS[:, 2:]).movedim(1, -1) * (2 / (S - 1)) - 1
    grid_NSS2 = grid_NSS2.clamp(-3, 3)  # far outside is outside; the horizon is infinitely far
    view_N1SS = F.grid_sample(
        crops_NSS[:, None].float(),
        grid_NSS2,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )
    return view_N1SS[:, 0].round()


def _stretched(views_NSS: Tensor, stretched_N: Tensor) -> Tensor:
    """Return uint8 views, those that are to be stretched with their grey values from 0 to 255."""
    low_N11, high_N11 = (f(views_NSS, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
    some_N11 = stretched_N[:, None, None] & (high_N11 > low_N11)
    scale_N11 = torch.where(some_N11, 255 / (high_N11 - low_N11), 1.0)
    shift_N11 = torch.where(some_N11, low_N11, 0.0)
    return ((views_NSS - shift_N11) * scale_N11).round().clamp(0, 255).to(torch.uint8)
