"""Every layer against autograd, sample by sample, and what falls back says so."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from skorch import NeuralNet
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from sk_datadrop import GaussNewton, Lanczos
from sk_datadrop._curvature import curvature_operator
from sk_datadrop._engine import Request
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._influence import influence, sample_scores
from sk_datadrop._net_checks import warn_of_unused_parameters
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._samples import Samples
from sk_datadrop.nets import DnCNN, SmallCNN

models = pytest.importorskip("torchvision.models")

N_SAMPLES = 4
FORWARD, REVERSE, DIFFERENCES = (
    "forward mode",
    "reverse over reverse",
    "finite differences",
)


class Sine(torch.autograd.Function):
    """The older style of custom function, which torch.func refuses."""

    @staticmethod
    def forward(ctx, X):
        ctx.save_for_backward(X)
        ctx.save_for_forward(X)
        return X.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class SineWithJVP(Sine):
    @staticmethod
    def jvp(ctx, tangent):
        return tangent * ctx.saved_tensors[0].cos()


class SineOnce(Sine):
    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class Custom(nn.Module):
    """A linear layer before and after a custom function."""

    def __init__(self, function):
        super().__init__()
        self.before, self.after = nn.Linear(4, 3), nn.Linear(3, 2)
        self.function = function

    def forward(self, X):
        return self.after(self.function.apply(self.before(X)))


class ScaleWithoutGrad(nn.Module):
    """Forward mode would differentiate the scale, which training takes as fixed."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, X):
        with torch.no_grad():
            scale = self.linear.weight.norm()
        return self.linear(X) / scale


class WorksInPlace(nn.Module):
    """Standardizes its input in place, which training forgives."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, X):
        return self.linear(X.sub_(0.5).div_(2.0))


class Tied(nn.Module):
    """Two layers that are one and a head with the same weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.head = nn.Linear(4, 4)
        self.head.weight = self.first.weight

    def forward(self, X):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(X)))))


class WithBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, X):
        return self.linear(X) * self.scale


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 3), nn.Tanh())

    def forward(self, X):
        return checkpoint(self.block, X, use_reentrant=False)


class First(nn.Module):
    """First of the outputs of a recurrent layer or of attention of X on itself."""

    def __init__(self, layer, n_inputs=1):
        super().__init__()
        self.layer, self.n_inputs = layer, n_inputs

    def forward(self, X):
        return self.layer(*[X] * self.n_inputs)[0]


def frozen():
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
    module[0].weight.requires_grad_(False)
    module[2].bias.requires_grad_(False)
    return module


def after(convolution, *layers):
    """Layers without parameters of their own need some before and after them."""
    return nn.Sequential(
        convolution, nn.Tanh(), *layers, nn.Flatten(), nn.LazyLinear(3)
    )


def transformer_layer():
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)


def vision_transformer():
    module = models.VisionTransformer(
        image_size=16,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
        num_classes=3,
    )
    # torchvision starts the head at zero, where nothing reaches the other layers.
    nn.init.normal_(module.heads.head.weight)
    return module


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    derivative: str = FORWARD
    rtol: float = 1e-9
    dtype: torch.dtype = torch.float64
    n_words: int | None = None


VECTOR, SEQUENCE, IMAGE = (4,), (5, 4), (2, 6, 6)
CASES = {
    "Linear": Case(lambda: nn.Linear(4, 3), VECTOR),
    "Conv1d": Case(lambda: nn.Conv1d(2, 3, 3), (2, 6)),
    "Conv2d": Case(lambda: nn.Conv2d(2, 2, 3, stride=2), IMAGE),
    "Conv2d grouped": Case(lambda: nn.Conv2d(2, 4, 3, dilation=2, groups=2), IMAGE),
    "Conv3d": Case(lambda: nn.Conv3d(1, 2, 3), (1, 4, 4, 4)),
    "ConvTranspose1d": Case(lambda: nn.ConvTranspose1d(2, 3, 3), (2, 4)),
    "ConvTranspose2d": Case(lambda: nn.ConvTranspose2d(2, 1, 3), (2, 3, 3)),
    "ConvTranspose3d": Case(lambda: nn.ConvTranspose3d(1, 1, 2), (1, 2, 3, 3)),
    "BatchNorm1d": Case(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)),
        VECTOR,
    ),
    "BatchNorm2d": Case(lambda: after(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), IMAGE),
    "GroupNorm": Case(lambda: after(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), IMAGE),
    "LayerNorm": Case(lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), VECTOR),
    "RMSNorm": Case(lambda: nn.Sequential(nn.Linear(4, 3), nn.RMSNorm(3)), VECTOR),
    "InstanceNorm1d": Case(
        lambda: after(nn.Conv1d(2, 3, 3), nn.InstanceNorm1d(3)), (2, 6)
    ),
    "InstanceNorm2d": Case(
        lambda: after(nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, affine=True)), IMAGE
    ),
    "LocalResponseNorm": Case(
        lambda: after(nn.Conv2d(2, 3, 3), nn.LocalResponseNorm(2)), IMAGE
    ),
    "Embedding": Case(
        lambda: nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2)), (4,), n_words=7
    ),
    # Gradients spare the vector of the padding, forward mode does not.
    "Embedding padded": Case(
        lambda: nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Linear(3, 2)),
        (4,),
        derivative=REVERSE,
        n_words=7,
    ),
    "Embedding max_norm": Case(
        lambda: nn.Sequential(nn.Embedding(7, 3, max_norm=1.0), nn.Linear(3, 2)),
        (4,),
        n_words=7,
    ),
    "Embedding sparse": Case(
        lambda: nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Linear(3, 2)),
        (4,),
        n_words=7,
    ),
    "EmbeddingBag": Case(
        lambda: nn.Sequential(nn.EmbeddingBag(7, 3, mode="max"), nn.Linear(3, 2)),
        (4,),
        derivative=DIFFERENCES,
        rtol=1e-6,
        n_words=7,
    ),
    "RNN": Case(lambda: First(nn.RNN(4, 3, batch_first=True)), SEQUENCE),
    "LSTM": Case(lambda: First(nn.LSTM(4, 3, batch_first=True)), SEQUENCE),
    "LSTM two ways": Case(
        lambda: First(nn.LSTM(4, 2, 2, batch_first=True, bidirectional=True)), SEQUENCE
    ),
    # In float32 the CPU takes a fused layer without forward mode.
    "LSTM float32": Case(
        lambda: First(nn.LSTM(4, 3, batch_first=True)),
        SEQUENCE,
        derivative=REVERSE,
        rtol=1e-4,
        dtype=torch.float32,
    ),
    "GRU": Case(lambda: First(nn.GRU(4, 3, batch_first=True)), SEQUENCE),
    "MultiheadAttention": Case(
        lambda: First(nn.MultiheadAttention(4, 2, batch_first=True), 3), SEQUENCE
    ),
    "TransformerEncoderLayer": Case(transformer_layer, SEQUENCE),
    "TransformerEncoder": Case(
        lambda: nn.TransformerEncoder(transformer_layer(), 2), SEQUENCE
    ),
    "TransformerEncoderLayer float32": Case(
        transformer_layer, SEQUENCE, rtol=1e-4, dtype=torch.float32
    ),
    "Dropout": Case(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 3)), VECTOR
    ),
    "MaxPool": Case(lambda: after(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2)), IMAGE),
    "AvgPool": Case(lambda: after(nn.Conv2d(2, 3, 3), nn.AvgPool2d(2)), IMAGE),
    "AdaptiveAvgPool": Case(
        lambda: after(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(3)), IMAGE
    ),
    "AdaptiveMaxPool": Case(
        lambda: after(nn.Conv2d(2, 3, 3), nn.AdaptiveMaxPool2d(3)), IMAGE
    ),
    "LPPool": Case(lambda: after(nn.Conv2d(2, 3, 3), nn.LPPool2d(2, 2)), IMAGE),
    "Upsample": Case(
        lambda: after(nn.Conv2d(2, 2, 3), nn.Upsample(scale_factor=2, mode="bicubic")),
        IMAGE,
    ),
    "PixelShuffle": Case(lambda: after(nn.Conv2d(2, 4, 3), nn.PixelShuffle(2)), IMAGE),
    "PReLU": Case(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.PReLU(3), nn.Linear(3, 3)), VECTOR
    ),
    "activations": Case(
        lambda: nn.Sequential(
            nn.Linear(4, 6), nn.GELU(), nn.SiLU(), nn.Mish(), nn.GLU(), nn.Softmax(-1)
        ),
        VECTOR,
    ),
    "in-place ReLU": Case(
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)),
        VECTOR,
    ),
    "weight_norm": Case(
        lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
        VECTOR,
        derivative=REVERSE,
    ),
    "spectral_norm": Case(
        lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), VECTOR
    ),
    "tied": Case(Tied, VECTOR),
    "frozen": Case(frozen, VECTOR),
    "buffer": Case(WithBuffer, VECTOR),
    "checkpoint": Case(Checkpointed, VECTOR),
    "in place on X": Case(WorksInPlace, VECTOR),
    "no_grad": Case(ScaleWithoutGrad, VECTOR, derivative=REVERSE),
    "custom with jvp": Case(lambda: Custom(SineWithJVP), VECTOR),
    "custom": Case(lambda: Custom(Sine), VECTOR, derivative=REVERSE),
    "custom once": Case(
        lambda: Custom(SineOnce), VECTOR, derivative=DIFFERENCES, rtol=1e-6
    ),
    "SmallCNN": Case(
        lambda: SmallCNN(3, channels=(4, 4), n_hidden=5, batch_norm=True), (1, 8, 8)
    ),
    "DnCNN": Case(lambda: DnCNN(depth=4, width=4, batch_norm=True), (1, 5, 5)),
    "resnet18": Case(
        lambda: models.resnet18(num_classes=3),
        (3, 16, 16),
        rtol=1e-4,
        dtype=torch.float32,
    ),
    "mobilenet_v3_small": Case(
        lambda: models.mobilenet_v3_small(num_classes=3), (3, 32, 32)
    ),
    "VisionTransformer": Case(vision_transformer, (3, 16, 16)),
}


def draw_inputs(case, generator):
    if case.n_words:
        return torch.randint(
            0, case.n_words, (N_SAMPLES, *case.shape), generator=generator
        )
    return torch.randn(N_SAMPLES, *case.shape, generator=generator, dtype=case.dtype)


def generic_net(case, X, generator):
    """Net with no weight at a special value and statistics of its own, in training."""
    module = case.make().to(case.dtype).train()
    with torch.no_grad():
        module(X.clone())  # makes lazy layers
        for p in module.parameters():
            if p.ndim < 2:
                p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        for _ in range(5):
            module(X.clone())
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    list(module.modules())[-1].eval()
    return NeuralNet(module, nn.BCEWithLogitsLoss).initialize()


def snapshot(module):
    return {
        "state": copy.deepcopy(module.state_dict()),
        "training": [m.training for m in module.modules()],
        "gradients": [p.grad.clone() for p in module.parameters()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
    }


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def run(request):
    """Scores and products of a net whose derivative is settled."""
    case = CASES[request.param]
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        X = draw_inputs(case, generator)
        net = generic_net(case, X, generator)
    before = snapshot(net.module_)
    functional = FunctionalNet(net)
    shape = functional.outputs(functional.theta, X).shape
    y = torch.rand(shape, generator=generator, dtype=case.dtype)
    samples = Samples(X, y)
    v = torch.randn(len(functional.theta), generator=generator, dtype=case.dtype)
    falls_back = case.derivative == DIFFERENCES
    with (
        pytest.warns(UserWarning, match="finite differences")
        if falls_back
        else nullcontext()
    ):
        scores = sample_scores(functional, samples, v[:, None])[0]
    return SimpleNamespace(
        case=case,
        net=net,
        before=before,
        functional=functional,
        samples=samples,
        v=v,
        scores=scores,
        one_by_one=sample_scores(functional, samples, v[:, None], 1)[0],
        product=_product(functional, samples, 1e9)(v),
    )


def _product(functional, samples, max_memory):
    curvature = GaussNewton(n_samples=None, max_memory=max_memory)
    rng = np.random.default_rng(0)
    return curvature_operator(curvature, functional, samples, random_state=rng).product


def reference(run):
    """Module in evaluation mode and its trainable parameters."""
    module = copy.deepcopy(run.net.module_).eval()
    return module, [p for p in module.parameters() if p.requires_grad]


def flat_gradient(value, parameters):
    gradients = torch.autograd.grad(value, parameters, retain_graph=True)
    return torch.cat([g.to_dense().reshape(-1) for g in gradients])


def loss(outputs, y):
    return F.binary_cross_entropy_with_logits(outputs, y)


def assert_close(found, expected, rtol):
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    error = (found - expected).norm() / expected.norm()
    assert error <= rtol, f"relative error {error:.1e}"


def test_scores_against_a_backward_pass_per_sample(run):
    module, parameters = reference(run)
    expected = [
        flat_gradient(loss(module(x[None].clone()), y[None]), parameters) @ run.v
        for x, y in zip(run.samples.X, run.samples.y, strict=True)
    ]
    assert_close(run.scores, torch.stack(expected).double(), run.case.rtol)


def test_gauss_newton_product_against_jacobians_per_sample(run):
    module, parameters = reference(run)
    expected = torch.zeros_like(run.v)
    for x in run.samples.X:
        z = module(x[None].clone())
        J = torch.stack([flat_gradient(a, parameters) for a in z.reshape(-1)])
        probabilities = torch.sigmoid(z.detach().reshape(-1))
        H = probabilities * (1 - probabilities) / z.numel()
        expected += J.T @ (H * (J @ run.v)) / len(run.samples)
    assert_close(run.product, expected, run.case.rtol)


def test_batch_size_does_not_matter(run):
    rtol = max(run.case.rtol, 1e-6)
    assert_close(run.one_by_one, run.scores, rtol)
    product = _product(run.functional, run.samples, 1)(run.v)
    assert_close(product, run.product, rtol)


def test_the_derivative_is_reported(run):
    assert run.functional.derivative == run.case.derivative


def test_the_net_is_left_as_found(run):
    torch.testing.assert_close(snapshot(run.net.module_), run.before, rtol=0, atol=0)


def test_every_parameter_is_reached(run):
    warn_of_unused_parameters(run.functional, run.samples)


def score(function):
    """Influence of 60 samples on some of them, by a net around a custom function."""
    generator = torch.Generator().manual_seed(0)
    X, y = (torch.randn(60, n, generator=generator) for n in (4, 2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NeuralNet(Custom, nn.MSELoss, module__function=function).initialize()
    samples = Samples(X, y)
    return influence(
        FunctionalNet(net),
        samples,
        HeldOutObjective("loss", samples[:20]),
        curvature=GaussNewton(),
        solver=Lanczos(),
        request=Request(seed=0),
    )


def test_influence_reports_the_derivative_and_does_not_depend_on_it():
    with pytest.warns(UserWarning, match="good to about 3 digits in float32"):
        differences = score(SineOnce)
    reverse, forward = score(Sine), score(SineWithJVP)
    found = [result.derivative for result in (forward, reverse, differences)]
    assert found == [FORWARD, REVERSE, DIFFERENCES]
    assert_close(reverse.train, forward.train, 1e-4)
    assert_close(differences.train, forward.train, 1e-2)
    assert np.corrcoef(differences.train[0], forward.train[0])[0, 1] > 0.9999


class Straight(Sine):
    """A backward pass that is not the derivative, differentiable once only."""

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient


def test_differences_that_contradict_the_gradients_are_refused():
    with pytest.raises(ValueError, match="finite differences: contradicts"):
        score(Straight)


class Ignores(Sine):
    @staticmethod
    def forward(ctx, X):
        return torch.zeros_like(X)

    @staticmethod
    def backward(ctx, gradient):
        return None


def test_influence_names_the_parameters_out_of_reach():
    with pytest.warns(UserWarning, match=r"before.weight, before.bias"):
        score(Ignores)
