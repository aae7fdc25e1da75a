"""Whether a run has the batch that the learning rate of its config is for."""

from __future__ import annotations

from mmengine.config import Config

from vitbackbones.errors import notice


def notice_batch(cfg: Config, processes: int) -> None:
    """Say so if a batch differs from ``auto_scale_lr.base_batch_size`` and the rate stays.

    The base is that of one step. A rate that is for several of them, as CAS-ViT's classifiers have
    it, cannot be told from one that somebody accumulates for: what adds up to the base is right.
    """
    scaling, batch = cfg.get('auto_scale_lr') or {}, cfg.train_dataloader.get('batch_size')
    base = scaling.get('base_batch_size')
    numbers = isinstance(base, int) and isinstance(batch, int) and batch > 0
    if scaling.get('enable') or not numbers:
        return
    images, steps = processes * batch, cfg.optim_wrapper.get('accumulative_counts', 1)
    if base in (images, images * steps):
        return
    has = f'{images} ({processes} x {batch})' if processes > 1 else str(images)
    also = f', {steps} of them for an update' if steps > 1 else ''
    or_else = f' as for {images}, whatever is accumulated' if steps > 1 else ''
    if base % images == 0:
        or_else += f', or optim_wrapper.accumulative_counts={base // images} makes up for it'
    notice(
        f'the learning rate is for batches of {base} (auto_scale_lr.base_batch_size), and one has '
        f'{has} images{also}: --auto-scale-lr scales it{or_else}; a rate of your own may stay'
    )
