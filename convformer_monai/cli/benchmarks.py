"""``convformer-monai benchmark``: time and memory on this machine."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from convformer_monai.cli.console import start_logging
from convformer_monai.cli.options import Repeats, Threads
from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["app"]


class Preset(str, Enum):
    """Sizes of the networks."""

    SMALL = "small"
    FULL = "full"


Repository = Annotated[Path, typer.Option(metavar="DIR", help="BLAST-CT's repository, with its weights.")]
Models = Annotated[str, typer.Option(help="BLAST-CT's networks, comma-separated, of 1 to 12.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure time and memory on this machine.")


@app.command("all")
def everything(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="NAME", help="Writes NAME.md, NAME.json and NAME.svg.")
    ] = Path("performance"),
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with acdc, isic2017 and ich; else images are generated."),
    ] = None,
    repeats: Repeats = 3,
    shrink: Annotated[int, typer.Option(min=1, max=8, help="Divide all sizes, to try the program.")] = 1,
) -> None:
    """Measure start-up, folders of cases, large images, other engines, and how cost grows with size.

    Takes about a quarter of an hour. Needs pip install 'convformer_monai[train,export]'; OpenVINO is measured where it
    is installed.
    """
    start_logging(times=True)
    from convformer_monai.benchmarks.performance import run

    run(output, data, repeats, shrink)


@app.command()
def csa(
    sizes: Annotated[
        str | None, typer.Option(help="Grid points along an edge, comma-separated.", show_default="16,32,64; 32,64,128")
    ] = None,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads.")] = 8,
    head_dim: Annotated[int, typer.Option(min=1, help="Channels of a head.")] = 64,
    repeats: Repeats = 5,
    threads: Threads = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Of CUDA: also write FILE.md and FILE_TABLE.csv."),
    ] = None,
    tiles: Annotated[bool, typer.Option("--tiles", help="Of CUDA: also try other tiles of the kernels.")] = False,
) -> None:
    """Measure CNN-style self-attention beside its published formulation and torch's softmax attention.

    On CUDA, check the Triton kernels first; exit status 1 says that they do not run, or are not exact.
    """
    start_logging()
    from convformer_monai.commands.lists import numbers_in

    if device == "cpu":
        if output is not None or tiles:
            raise InputRefused(
                RefusalCode.OPTION, "--output and --tiles are of CUDA; give --device cuda, or leave them out"
            )
        from convformer_monai.benchmarks.csa import run

        run(numbers_in("16,32,64" if sizes is None else sizes, "--sizes", 1), heads, head_dim, repeats, threads)
        return
    numbers = numbers_in("32,64,128" if sizes is None else sizes, "--sizes", 1)
    from convformer_monai.benchmarks import csa_cuda
    from convformer_monai.segmenter import choose_device

    if not csa_cuda.run(choose_device(device), numbers, heads, head_dim, repeats, output, tiles):
        raise typer.Exit(1)


@app.command()
def cardiac(repeats: Repeats = 5) -> None:
    """Measure the cardiac bundle on a volume and a cine, and its network beside MONAI's BasicUNet."""
    start_logging()
    from convformer_monai.benchmarks.cardiac import run

    run(repeats)


@app.command()
def dicom(
    repeats: Repeats = 3,
    size: Annotated[int, typer.Option(min=16, help="Pixels a side of the CT.")] = 512,
) -> None:
    """Measure segment on a CT series and a cine."""
    start_logging()
    from convformer_monai.benchmarks.dicom import run

    run(repeats, size)


@app.command()
def cohort(
    tasks: Annotated[str, typer.Option(help="Tasks to hand out, comma-separated, a run each.")] = "1000,10000,100000",
    seconds: Annotated[float, typer.Option(min=0, help="Length of the sleep that stands for a case.")] = 1.0,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    slots: Annotated[int, typer.Option(min=1, help="Tasks at a time in each of them, which sleep in threads.")] = 100,
    cases: Annotated[
        str, typer.Option(help="Cases whose files are planned and summed up, comma-separated.")
    ] = "1000,10000",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="NAME", help="Also write NAME.csv, NAME_files.csv, NAME.svg."),
    ] = None,
) -> None:
    """Measure what a cohort costs beside its cases: the scheduler a task, the files of many cases.

    The network is replaced by a sleep. Needs pip install 'convformer_monai[cluster]'.
    """
    start_logging()
    from convformer_monai.benchmarks.cohort import run
    from convformer_monai.cli.console import print_text
    from convformer_monai.commands.lists import numbers_in

    counts, files = numbers_in(tasks, "--tasks", 1), numbers_in(cases, "--cases", 1)
    print_text(run(counts, seconds, workers, slots, files, output))


@app.command()
def training(
    cases: Annotated[str, typer.Option(help="Cases to train on, comma-separated, a set each.")] = "100,400,1600",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 30,
    repeats: Repeats = 3,
    limit: Annotated[int, typer.Option(min=1, help="Memory of trainings from disk, MB.")] = 2000,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="NAME", help="Also write NAME.csv and NAME.svg.")
    ] = None,
) -> None:
    """Measure what training costs as the data grow, with prepared images in memory and on disk.

    Trains the cardiac bundle on generated cases: time to prepare them, rate, and peak memory. Linux only.
    """
    start_logging()
    from convformer_monai.benchmarks.training import run
    from convformer_monai.cli.console import print_text
    from convformer_monai.commands.lists import numbers_in

    print_text(run(numbers_in(cases, "--cases", 1), steps, repeats, limit, output))


@app.command()
def nets(
    nets: Annotated[str | None, typer.Option(help="Comma-separated; all by default.")] = None,
    blocks: Annotated[str | None, typer.Option(help="Comma-separated; all by default.")] = None,
    preset: Annotated[Preset, typer.Option(help="Size of our nets.")] = Preset.SMALL,
    size: Annotated[int, typer.Option(min=32, help="Pixels along an edge, a multiple of 32.")] = 256,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the image.")] = 1,
    classes: Annotated[int, typer.Option(min=1, help="Classes of the output.")] = 4,
    repeats: Repeats = 3,
    threads: Threads = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Also write FILE.md and FILE.csv, row by row.")
    ] = None,
) -> None:
    """Measure every net with every block, beside nnU-Net's U-Net and MONAI's UNet, SwinUNETR and UNETR.

    The table has parameters, multiply-adds, time and peak memory of a slice.
    """
    start_logging()
    from convformer_monai.benchmarks.nets import Setting, run
    from convformer_monai.commands.lists import names_in

    run(Setting(preset.value, size, channels, classes, threads), names_in(nets), names_in(blocks), repeats, output)


@app.command("blast-ct")
def blast_ct(
    repository: Repository,
    data: Annotated[Path, typer.Option(metavar="DIR", help="datalist.json with the lists heads and expert.")],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("blast_ct"),
    bundle: Annotated[str, typer.Option("--bundle", "-b", help="Ours.")] = "hemorrhage",
    models: Models = "1",
    weights: Annotated[Path | None, typer.Option(help="Your own weights, instead of the bundle's.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of fold0/best.pt to fold4/best.pt.")] = None,
    heads_only: Annotated[bool, typer.Option("--heads-only", help="No expert slices without their heads.")] = False,
) -> None:
    """Compare the hemorrhage bundle with BLAST-CT on the same heads.

    BLAST-CT is not ours to ship. Fetch it once:

    git clone https://github.com/biomedia-mira/blast-ct && git -C blast-ct checkout 96666a1f

    That commit, of April 2020, holds its networks (blast_ct/data/saved_models) and the code that fits them. Writes
    blast_ct.md, blast_ct.csv and blast_ct.png, and keeps its masks of heads for the next run.
    """
    start_logging()
    from convformer_monai.benchmarks.blast_ct import run
    from convformer_monai.cli.console import print_text
    from convformer_monai.commands.lists import numbers_in

    numbers = numbers_in(models, "--models", 1)
    print_text(run(repository, data, output_dir, bundle, numbers, weights, runs, not heads_only))


@app.command()
def peers(
    data: Annotated[Path, typer.Option(metavar="DIR", help="datalist.json with the lists train and val, of volumes.")],
    nnunet_python: Annotated[
        Path, typer.Option(metavar="FILE", help="Python of a virtual environment that has nnunetv2.")
    ] = Path("nnunet/bin/python"),
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes of each training.")] = 25,
    peers: Annotated[str, typer.Option(help="Comma-separated.")] = "shipped,convformer,zoo,nnunet",
    memory_target: Annotated[
        float, typer.Option(min=0, help="GB that nnU-Net plans for, which sets its batch; 0 for its own.")
    ] = 0,
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path("peers"),
) -> None:
    """Compare the cardiac bundle with nnU-Net and the network of MONAI's zoo, trained as long on the same machine.

    nnU-Net keeps an environment of its own: python -m venv nnunet && nnunet/bin/pip install nnunetv2

    Writes peers.md and peers.csv; stopped at any time, the same command goes on with the next peer.
    """
    start_logging(times=True)
    from convformer_monai.benchmarks.peers import run
    from convformer_monai.cli.console import print_text
    from convformer_monai.commands.lists import names_in

    print_text(run(data, output_dir, nnunet_python, minutes, names_in(peers), memory_target))


@app.command("silver-heads")
def silver_heads(
    repository: Repository,
    data: Annotated[Path, typer.Option(metavar="DIR", help="datalist.json with the list heads.")],
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the masks.")] = Path("silver_heads"),
    models: Models = "1,5,9,3",
) -> None:
    """Let BLAST-CT draw masks of blood in the marked slices of whole heads, for --silver_dir of a training.

    Prints how good they are. For BLAST-CT see blast-ct --help.
    """
    start_logging()
    from convformer_monai.benchmarks.silver_heads import run
    from convformer_monai.cli.console import print_text
    from convformer_monai.commands.lists import numbers_in

    print_text(run(repository, data, output_dir, numbers_in(models, "--models", 1)))
