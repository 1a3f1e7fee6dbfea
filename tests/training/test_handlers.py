"""Handlers and checkpoints with a small MONAI trainer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from torch import nn

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.networks import U2Net
from custom_components.training import BestWeights, ClipGradients, EpochSeed, PlateauOfAverage, Resume
from custom_components.weights import load_network, load_state
from custom_components.weights.bundle_files import describe_header


class Setting:
    """A linear network with dropout on fixed data."""

    def __init__(
        self, path: Path, epochs: int, resume: bool | str = True, handlers: tuple = (), seed: int = 0, width: int = 3
    ) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, width), nn.Linear(width, 2))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.9**step)
        objects = {"network": self.network, "optimizer": self.optimizer, "lr_scheduler": self.schedule}
        data = [{"image": torch.randn(2, 4), "label": torch.randn(2, 2)} for _ in range(3)]
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=data,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
            train_handlers=[EpochSeed(seed), *handlers, Resume(path, objects, {"seed": seed}, resume=resume)],
            decollate=False,
            optim_set_to_none=True,
        )

    def run(self) -> Setting:
        self.trainer.run()
        return self

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.network.parameters()])


def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole = Setting(tmp_path / "whole.pt", 4).run()
    Setting(tmp_path / "parts.pt", 1).run()
    torch.rand(17)  # whatever happens between the runs
    parts = Setting(tmp_path / "parts.pt", 4).run()
    assert torch.equal(whole.weights, parts.weights)
    assert parts.trainer.state.iteration == 12
    assert torch.load(tmp_path / "parts.pt", weights_only=True)["epoch"] == 4


@pytest.mark.parametrize(("interval", "epochs", "validated"), [(2, 3, [2, 3]), (9, 2, [2]), (1, 2, [1, 2])])
def test_the_last_epoch_is_always_validated(tmp_path: Path, interval: int, epochs: int, validated: list[int]) -> None:
    """Weights are written by the validation: a training shorter than the interval would end without any."""
    setting = Setting(tmp_path / "unused.pt", epochs)
    evaluator = SupervisedEvaluator("cpu", [{"image": torch.ones(1, 4), "label": torch.ones(1, 2)}], setting.network)
    done: list[int] = []
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: done.append(engine.state.epoch))
    ValidationHandler(interval, evaluator).attach(setting.trainer)
    Resume(tmp_path / "last.pt", {}, {}, evaluator=evaluator).attach(setting.trainer)
    setting.run()
    assert done == validated


def test_without_resume_a_training_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    once = Setting(path, 2).run().weights
    again = Setting(path, 2, resume=False).run()
    assert again.trainer.state.iteration == 6
    assert torch.equal(once, again.weights)


@pytest.mark.parametrize(("word", "steps"), [("false", 3), ("False", 3), ("FALSE", 3), ("true", 0), ("True", 0), (0, 3), (1, 0)])
def test_resume_understands_the_words_of_a_command_line(tmp_path: Path, word: str | int, steps: int) -> None:
    path = tmp_path / "last.pt"
    Setting(path, 1).run()
    done: list[int] = []
    setting = Setting(path, 1, resume=word)
    setting.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: done.append(engine.state.iteration))
    setting.run()
    assert len(done) == steps


@pytest.mark.parametrize("word", ["no", "flase", "", None, 2, 0.5])
def test_resume_refuses_other_words(tmp_path: Path, word: object) -> None:
    with pytest.raises(InputError, match=rf"--resume {word}: .* true or false"):
        Resume(tmp_path / "last.pt", {}, {}, resume=word)


def test_a_finished_training_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    once = Setting(path, 2).run().weights
    assert torch.equal(Setting(path, 2).run().weights, once)


@pytest.mark.parametrize(("changes", "message"), [({"seed": 1}, "seed 0 there, 1 here"), ({"width": 5}, "does not fit")])
def test_the_checkpoint_of_another_training_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    Setting(tmp_path / "last.pt", 1).run()
    with pytest.raises(InputError, match=message):
        Setting(tmp_path / "last.pt", 2, **changes).run()


TWO_PROCESSES = """
import sys
from pathlib import Path
from torch import distributed
from tests.training.test_handlers import Setting

distributed.init_process_group("gloo")
for case in sorted(Path(sys.argv[1]).glob("case_*")):
    folder = case / f"rank_{distributed.get_rank()}"
    try:
        said = str(Setting(folder / "last.pt", 3).run().trainer.state.iteration)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    (folder / "said.txt").write_text(said)
distributed.destroy_process_group()
"""


def test_processes_continue_from_one_checkpoint_or_not_at_all(repository: Path, tmp_path: Path) -> None:
    """As on two nodes without a common disk, each with a file of its own."""
    cases: list[tuple[int | None, int | None, str]] = [  # epochs in the file of either (0 no file, None damaged), outcome
        (0, 0, "9"),
        (2, 2, "9"),
        (2, 0, "rank 0 has epoch 2, step 6; rank 1 has none; copy the newest"),
        (0, 2, "rank 0 has none; rank 1 has epoch 2, step 6; copy the newest"),
        (2, 1, "rank 0 has epoch 2, step 6; rank 1 has epoch 1, step 3; copy the newest"),
        (2, None, "rank 1 has one that cannot be used \\(.*is no checkpoint"),
        (None, None, "is no checkpoint of this program"),
    ]
    for number, (*files, _) in enumerate(cases):
        for rank, epochs in enumerate(files):
            path = tmp_path / f"case_{number}" / f"rank_{rank}" / "last.pt"
            path.parent.mkdir(parents=True)
            if epochs is None:
                path.write_bytes(b"nonsense")
            elif epochs:
                Setting(path, epochs).run()
    program = tmp_path / "program.py"
    program.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(repository)}
    command = [*launch, str(program), str(tmp_path)]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for number, (first, second, outcome) in enumerate(cases):
        for rank in range(2):
            said = (tmp_path / f"case_{number}" / f"rank_{rank}" / "said.txt").read_text()
            expected = outcome if outcome == "9" else f"InputError: .*{outcome}"
            assert re.match(expected, said), (first, second, rank, said)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no checkpoint"):
        Setting(path, 1).run()
    assert path.read_bytes() == content


def test_a_failed_write_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    Setting(path, 1).run()
    before = path.read_bytes()

    def half(state: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        Setting(path, 2).run()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Score:
    """Stands for an evaluator's state."""

    key_metric_name = "val_mean_dice"

    def __init__(self, epoch: int, best_epoch: int) -> None:
        self.epoch, self.best_metric_epoch = epoch, best_epoch
        self.best_metric = torch.tensor(0.5)  # as MONAI's metrics give it


def save_best(network: nn.Module, folder: Path, epoch: int, best_epoch: int, domains: Sequence[Domain] = ()) -> None:
    engine = type("Engine", (), {"state": Score(epoch, best_epoch)})()
    BestWeights(folder, network, domains)(engine)


def test_only_a_new_best_is_saved_and_earlier_weights_are_kept(tmp_path: Path) -> None:
    path, network = tmp_path / "model.pt", nn.Linear(2, 2)
    path.write_bytes(b"shipped")
    save_best(network, tmp_path, 1, 0)
    assert path.read_bytes() == b"shipped"
    for epoch in (2, 3):
        save_best(network, tmp_path, epoch, epoch)
    assert (tmp_path / "before_training" / "model.pt").read_bytes() == b"shipped"
    assert torch.equal(torch.load(path, weights_only=True)["weight"], network.weight)


SHAPE = {"in_channels": 1, "out_channels": 3, "strides": [[2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2}


def test_adapters_of_other_domains_must_not_lose_their_trunk(tmp_path: Path) -> None:
    """Refused before a training starts, unless it leaves the trunk as it is."""
    network = U2Net({"one": SHAPE, "two": SHAPE}, channels=(4, 8))
    BestWeights(tmp_path, network)  # an empty folder
    save_best(network, tmp_path, 1, 1)
    BestWeights(tmp_path, network)  # the same domains: all are replaced
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    subset = U2Net({"one": SHAPE}, channels=(4, 8))
    with pytest.raises(InputError, match=r"two\.safetensors: .*writes another one.* --ckpt_dir"):
        BestWeights(tmp_path, subset)
    with pytest.raises(InputError, match=r"two\.safetensors: .*writes another one.* --ckpt_dir"):
        BestWeights(tmp_path, subset.freeze_trunk())  # frozen, but it is another one's
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # Adapters of one frozen trunk share a folder.
    third = U2Net({"three": SHAPE}, channels=(4, 8))
    third.load_state_dict(network.trunk_state(), strict=False)
    save_best(third.freeze_trunk(), tmp_path, 1, 1)
    assert list(load_network(tmp_path).domains) == ["one", "three", "two"]


def test_all_forms_of_a_bundles_weights_are_the_same_network(tmp_path: Path) -> None:
    shape = {"in_channels": 1, "out_channels": 3, "strides": [[2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2}
    network = U2Net({"hippocampus_mri": shape}, channels=(4, 8)).eval()
    save_best(network, tmp_path, 1, 1)
    image = torch.rand(1, 1, 8, 8, 8)
    loaded = load_state(U2Net({"hippocampus_mri": shape}, channels=(4, 8)).eval(), tmp_path / "model.pt")
    assert torch.equal(network(image), load_network(tmp_path).eval()(image))
    assert torch.equal(network(image), loaded(image))


def test_an_adapter_says_of_which_epoch_it_is_and_how_good_it_was(bundle: Path, tmp_path: Path) -> None:
    domain = Domain.from_file(bundle / "configs" / "domain.json")
    network = U2Net({domain.name: domain.network}, channels=(2,) * len(domain.kernel_sizes))
    save_best(network, tmp_path, 7, 7, [domain])
    header = describe_header(tmp_path / f"{domain.name}.safetensors")
    assert header.training == {"epoch": 7, "val_mean_dice": 0.5}
    assert header.domain_description("header") == domain


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    norms = []

    class Norm:
        def attach(self, engine: SupervisedTrainer) -> None:
            from monai.engines.utils import IterationEvents

            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

        def __call__(self, engine: SupervisedTrainer) -> None:
            gradients = [p.grad.flatten() for p in engine.network.parameters()]
            norms.append(torch.cat(gradients).norm().item())

    for bound in (None, 1e-3):
        setting = Setting(tmp_path / f"{bound}.pt", 1)
        ClipGradients(setting.network, bound).attach(setting.trainer)
        Norm().attach(setting.trainer)
        setting.run()
    assert min(norms[:3]) > 1e-2
    assert norms[3:] == pytest.approx([1e-3] * 3, rel=1e-3)


def test_the_rate_is_halved_when_the_average_stops_falling() -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = PlateauOfAverage(optimizer, window=3, threshold=0.01, patience=2)
    rates = []
    for loss in [1.0, 0.8, 0.6, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]:
        schedule.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    # The average of three reaches 0.4 at the sixth value; the third epoch without a fall halves the rate.
    assert rates == [1.0] * 8 + [0.5] * 2


def test_the_plateau_schedule_resumes_with_its_averages() -> None:
    schedules = []
    for _ in range(2):
        schedules.append(PlateauOfAverage(torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0), window=3))
    for loss in (3.0, 2.0, 1.0):
        schedules[0].step(loss)
    schedules[1].load_state_dict(schedules[0].state_dict())
    for schedule in schedules:
        schedule.step(5.0)
    assert schedules[0].values == schedules[1].values == [2.0, 1.0, 5.0]
