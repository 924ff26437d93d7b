"""`vildcli fetch`: download weights for offline use."""

from __future__ import annotations

import click

from vildcli.console import say, show_table


@click.command(
    epilog="\b\nExample:\n  vildcli fetch\n  vildcli fetch ViT-L-14:openai torchvision --dry-run"
)
@click.argument("references", metavar="[WEIGHTS]...", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Say what would be downloaded, and stop.")
def command(references: tuple[str, ...], dry_run: bool) -> None:
    """Download weights into vildcli's cache folder, so that --offline works.

    WEIGHTS are open_clip's ARCHITECTURE:TAG, `torchvision` (its Mask R-CNN) and, to start training
    from, resnet50:imagenet, resnet152:imagenet, efficientnet_b7:imagenet; without any, those that
    `vildcli detect PHOTOS --classes "..."` needs: ViT-B-32:openai and torchvision. `wordnet` is
    the dictionary that `vildcli expand` reads.
    """
    from vildcli.weights import fetch, plan_fetch

    files = plan_fetch(references or ("ViT-B-32:openai", "torchvision"))
    if dry_run:
        rows = [
            (f.reference, "there" if f.is_present else "missing", f.path, f.origin) for f in files
        ]
        show_table("Weights", ("weights", "now", "file", "from"), rows)
        return
    for file in files:
        say(f"{file.reference}: {'already there' if file.is_present else 'downloading'}")
        say(f"  {fetch(file)}")
