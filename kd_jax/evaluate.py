"""Evaluates a trained network on faces: verification of pairs, or identification in SCface.

N=runs/kdim_lfw/kdim
python -m kd_jax.evaluate --network=$N --size=112x96 --pairs=lfw/pairs.txt --images=lfw
python -m kd_jax.evaluate --network=$N --size=112x96 --bin=lfw.bin --protocol=insightface
python -m kd_jax.evaluate --network=$N --size=112x96 --scface=scface_112x112
python -m kd_jax.evaluate --network=$N --size=112x96 --folder=lfw --identities=180

The images are aligned faces, of the middle of which `--size` is used: as in training, 112x96 of
112x112 for KDim's networks. The network sees them at its own resolution. Of every pair the second
image, the probe, is reduced to each of `--probe_sizes` and brought back (`--mode=lr_lr` reduces
both). SCface's probes are small by themselves. Of a folder, with a folder an identity, random
identities are chosen, and of each one image that is known; the others are the probes.
`--out=FILE.json` keeps every number with its protocol and filters.
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from kd_jax import cli
from kd_jax.data import Degradation
from kd_jax.data.face_galleries import FaceGallery, read_gallery, read_scface
from kd_jax.data.face_pairs import FacePairs, read_bin, read_pairs
from kd_jax.embedding import Embedder
from kd_jax.errors import UsageError
from kd_jax.evaluation import MODES, PROTOCOLS, identification, lr_verification
from kd_jax.files import write_atomically
from kd_jax.report import markdown

_EXAMPLE = (
    "python -m kd_jax.evaluate --network=runs/kdim_lfw/kdim --size=112x96 --pairs=lfw/pairs.txt"
    " --images=lfw"
)

_USES = {
    "pairs": ("images", "mode", "protocol", "probe_sizes"),
    "bin": ("mode", "protocol", "probe_sizes"),
    "scface": (),
    "folder": ("identities", "seed", "probe_sizes"),
}
"""What may be evaluated, and the flags that it uses beside those of all."""


def main() -> int:
    """Runs the command line; returns the exit code."""
    command = cli.Command(__doc__, _EXAMPLE)
    network = cli.NetworkFlags(command)
    pairs = command.string("pairs", None, "List of pairs, such as pairs.txt of LFW.")
    images = command.string("images", None, "Folder of the images that --pairs names.")
    pack = command.string("bin", None, "Pairs in a pack of insightface, such as lfw.bin.")
    scface = command.string("scface", None, "Folder of the aligned images of SCface.")
    faces = command.string("folder", None, "Folder of images to identify, a folder an identity.")
    identities = command.integer("identities", 100, "How many of --folder are chosen.")
    seed = command.integer("seed", 0, "Of that choice.")
    size = command.string("size", None, "HEIGHTxWIDTH of the middle of the images; default all.")
    probe_sizes = command.string(
        "probe_sizes", "8,12,16,20,full", "Heights to which probes are reduced; full leaves them."
    )
    mode = command.string("mode", "hr_lr", f"What is reduced: {' or '.join(MODES)}.")
    protocol = command.string("protocol", "exact", f"Of verification: {', '.join(PROTOCOLS)}.")
    down = command.string("down", "bicubic", "Filter that reduces.")
    up = command.string("up", "bicubic", "Filter that brings back to size.")
    blur = command.number("blur", 0.0, "Deviation of a blur before, as in Degradation.")
    out = command.string("out", None, "JSON file for the results.")

    def evaluate() -> None:
        command.require(network.network)
        kind, *more = [name for name in _USES if command.values[name].value] or [None]
        if kind is None or more:
            raise UsageError("Give one of --pairs (with --images), --bin, --scface and --folder.")
        command.refuse(kind, set().union(*_USES.values()) - set(_USES[kind]))
        crop, sizes = cli.height_and_width(size), cli.probe_sizes(probe_sizes)
        for flag, known in ((mode, MODES), (protocol, PROTOCOLS)):
            cli.one_of(flag, known)
        path = cli.writable(out) if out.value else None
        try:
            degradation = Degradation(down=down.value, up=up.value, blur=blur.value)
        except ValueError as error:
            raise UsageError(f"--down, --up and --blur: {error}.") from error
        embed = Embedder(network.load(), degradation=degradation)

        def of_pairs(found: FacePairs) -> dict[str, Any]:
            return verify(embed, found, sizes, mode.value, protocol.value)

        def of_listed_pairs() -> dict[str, Any]:
            command.require(images)
            return of_pairs(read_pairs(pairs.value, images.value, crop))

        def of_folder() -> dict[str, Any]:
            gallery = read_gallery(faces.value, crop, identities.value, seed.value)
            return identify(embed, gallery, sizes)

        evaluations = {
            "pairs": of_listed_pairs,
            "bin": lambda: of_pairs(read_bin(pack.value, crop)),
            "scface": lambda: identify(embed, read_scface(scface.value, crop)),
            "folder": of_folder,
        }
        found = {
            **network.to_json(),
            "size": size.value,
            "degradation": {"down": down.value, "up": up.value, "blur": blur.value},
            **{name: command.values[name].value for name in (kind, *_USES[kind])},
            **evaluations[kind](),
        }
        print(table(found))
        if path is not None:
            write_atomically(path, json.dumps(found, indent=2) + "\n")

    return command.run(evaluate)


def verify(
    embed: Embedder, pairs: FacePairs, sizes: tuple[int | None, ...], mode: str, protocol: str
) -> dict[str, Any]:
    """Verification at several sizes, as JSON."""
    with _of(pairs.name):
        results = lr_verification(embed, pairs, sizes, mode=mode, protocol=protocol)
    return {
        "set": pairs.name,
        "mode": mode,
        "sizes": {_name(size): result.to_json() for size, result in results.items()},
    }


def identify(
    embed: Embedder, faces: FaceGallery, sizes: tuple[int | None, ...] = (None,)
) -> dict[str, Any]:
    """Identification of every set of probes at several sizes, as JSON."""
    gallery, probes = embed(faces.gallery.images), {}
    ranks = [rank for rank in (1, 5, 10) if rank <= len(gallery)]
    for name, images in faces.probes.items():
        for size in sizes:
            with _of(faces.name):
                found = identification(
                    gallery,
                    faces.gallery.labels,
                    embed(images.images, size=size),
                    images.labels,
                    ranks=ranks,
                )
            probes[name if sizes == (None,) else f"{name}, {_name(size)}"] = found.to_json()
    return {"set": faces.name, "probes": probes}


@contextlib.contextmanager
def _of(name: str) -> Iterator[None]:
    """Says which set cannot be evaluated."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{name} cannot be evaluated: {error}.") from error


def _name(size: int | None) -> str:
    return "full" if size is None else str(size)


def table(found: Mapping[str, Any]) -> str:
    """The results as a Markdown table, in per cent."""
    if "probes" in found:
        ranks = next(iter(found["probes"].values()))["cmc"]
        rows = [
            [name, *(f"{100 * share:.2f}" for share in result["cmc"].values())]
            for name, result in found["probes"].items()
        ]
        return markdown(("probes", *(f"rank {rank}" for rank in ranks)), rows)
    rows = [
        [
            size,
            f"{100 * result['accuracy']:.2f}",
            f"{100 * result['deviation']:.2f}",
            f"{100 * result['auc']:.2f}",
            f"{100 * result['eer']:.2f}",
            *(f"{100 * rate['val']:.2f}" for rate in result["val_at_far"].values()),
        ]
        for size, result in found["sizes"].items()
    ]
    fars = next(iter(found["sizes"].values()))["val_at_far"]
    columns = ("probe", "accuracy", "deviation", "AUC", "EER", *(f"VAL@{far}" for far in fars))
    return markdown(columns, rows)


if __name__ == "__main__":
    sys.exit(main())
