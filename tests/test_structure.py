"""The floor plan: who may import and reach into whom, and how large anything may get.

Each rule is a function from the name and the source of a module to complaints, so that
it can be tried on code that breaks it.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import sk_datadrop

PACKAGE = Path(sk_datadrop.__file__).parent

# The order in which the data pass through. A module imports only what stands before it.
ORDER = [
    "_version",
    "metrics",
    "nets",
    "datasets",
    "_splits",
    "_casting",
    "_array_items",
    "_lazy",
    "_names",
    "_warnings",
    "_samples",
    "_fingerprint",
    "_cache",
    "_parallel",
    "_ranks",
    "_derivatives",
    "_outputs",
    "_weighing",
    "_batches",
    "_progress",
    "_callbacks",
    "_training",
    "_rereading",
    "_stateless",
    "_criteria",
    "_reading",
    "_deviance",
    "_functional",
    "_evaluation",
    "_predictions",
    "_net_checks",
    "_probe",
    "_objective",
    "_convexity",
    "_curvature",
    "_solvers._base",
    "_solvers._spectrum",
    "_solvers._krylov",
    "_solvers._columns",
    "_solvers._dense",
    "_solvers._cg",
    "_solvers._lissa",
    "_solvers._arnoldi",
    "_solvers._lanczos",
    "_solvers",
    "_engine",
    "_influence",
    "_drop",
    "_label_noise",
    "_valleys",
    "_contamination",
    "_judge",
    "_safeguards",
    "_mending",
    "_inputs",
    "_targets",
    "_plan",
    "_scores",
    "_schedule",
    "_auto",
    "_treatment",
    "_two_rounds",
    "_written",
    "_base",
    "_estimators",
    "_selectors",
    "_default_scores",
    "_gains",
    "_arms",
    "_curves",
    "_report",
    "_net_weights",
    "_saving",
    "_pictures",
    "_thumbnails",
    "_html",
    "_curve_display",
    "_displays",
    "__init__",
]
LIGHT = {"metrics", "datasets", "_splits", "_drop", "_label_noise", "_valleys"}
LIGHT |= {"_contamination", "_judge", "_safeguards", "_mending"}
HEAVY = {"torch", "skorch", "joblib"}
DISPLAYS = {"_displays", "_curve_display"}

# Private names of other packages, and since when there is no public way.
EXCEPTIONS = {
    "torch.nn.modules.loss._WeightedLoss": "2026-11, the base of criteria with weights",
    "torch.nn.modules.batchnorm._NormBase": "2026-11, the base of layers with running "
    "statistics",
    "torch.utils._pytree": "2026-11, what torch knows of nested outputs, and users add",
    "module._orig_mod": "2026-11, the only way to what torch.compile wraps",
    "torch.mps._get_default_mps_generator": "2026-11, the only way to that generator",
    "sklearn.utils._safe_indexing": "2026-11, no public name cuts frames and lists",
}
# They stand in for a callable of skorch or torch, whose options they do not know.
STAND_INS = {
    "HeldOutAsTheyAre.__call__",
    "_InFullPrecision.__call__",
    "WeightedIterator.__call__",
    "WithWeights.__call__",
}

MAX_LINES_OF_MODULE = 450
MAX_LINES_OF_FUNCTION = 50
MAX_LINES_OF_PACKAGE = 15_950
MAX_PARAMETERS = 11

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[1:] and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def nodes(source, *kinds):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


def imported(source):
    """Return (line, module, name or None) of everything imported, wherever it is."""
    found = []
    for node in nodes(source, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, None) for alias in node.names]
        else:
            module = "." * node.level + (node.module or "")
            found += [(node.lineno, module, alias.name) for alias in node.names]
    return found


def ours(module, name):
    """Return the name in `ORDER` of a module of the package; None for others."""
    top, _, rest = module.partition(".")
    if top != "sk_datadrop":
        return None
    # `from sk_datadrop import x` imports a module, or from __init__.
    return rest or (name if name in ORDER else "__init__")


def is_private(name):
    return name is not None and name.startswith("_") and not name.endswith("__")


def forward_imports(part, source):
    for line, module, name in imported(source):
        other = ours(module, name)
        if module.startswith("."):
            yield f"{line}: imports {module}; write sk_datadrop in full"
        elif other is not None and ORDER.index(other) >= ORDER.index(part):
            yield f"{line}: imports {other}, which does not stand before {part}"


def heavy_imports(part, source):
    for line, module, name in imported(source) if part in LIGHT else []:
        other = ours(module, name)
        if module.split(".")[0] in HEAVY or (other is not None and other not in LIGHT):
            yield f"{line}: imports {module}, which is not light"


def imports_of_matplotlib(part, source):
    inside = {
        statement.lineno
        for function in nodes(source, *FUNCTIONS)
        for statement in ast.walk(function)
        if isinstance(statement, ast.Import | ast.ImportFrom)
    }
    for line, module, _ in imported(source):
        allowed = part in DISPLAYS and line in inside
        if module.split(".")[0] == "matplotlib" and not allowed:
            yield f"{line}: imports matplotlib outside the functions of the displays"


def private_imports(part, source):
    for line, module, name in imported(source):
        if is_private(name) and module != "sk_datadrop":
            yield from refused(f"{module}.{name}", line)


def private_attributes(part, source):
    """A private attribute is read only in the module that has a class defining it."""
    own = own_names(source)
    for node in nodes(source, ast.Attribute, ast.Call):
        whose, name = reached(node)
        if is_private(name) and name not in own and whose not in ("self", "cls"):
            yield from refused(f"{whose}.{name}", node.lineno)


def refused(name, line):
    if name not in EXCEPTIONS:
        yield f"{line}: {name} is private to another module"


def reached(node):
    """Return owner and name of an attribute that is read; two times None for others."""
    if isinstance(node, ast.Attribute):
        whose = ast.unparse(node.value)
        return "self" if whose.startswith("super(") else whose, node.attr
    is_getattr = isinstance(node.func, ast.Name) and re.fullmatch(
        "(get|set|has|del)attr", node.func.id
    )
    if is_getattr and isinstance(node.args[1], ast.Constant):
        return ast.unparse(node.args[0]), node.args[1].value
    return None, None


def own_names(source):
    """Return the names that the classes of a module define."""
    names = set()
    for kind in nodes(source, ast.ClassDef):
        for node in kind.body:
            if isinstance(node, FUNCTIONS):
                names.add(node.name)
            elif isinstance(node, ast.Assign):
                names |= {ast.unparse(target) for target in node.targets}
            elif isinstance(node, ast.AnnAssign):
                names.add(ast.unparse(node.target))
        for node in ast.walk(kind):
            is_set = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            if is_set and ast.unparse(node.value) == "self":
                names.add(node.attr)
    return names


def shallow_copies(part, source):
    """Copies of estimators share what they hold; `clone` is the way."""
    for line, module, name in imported(source):
        if module == "copy" and name is not None:
            yield f"{line}: imports from copy; write copy.copy or copy.deepcopy"
    for node in nodes(source, ast.Attribute):
        if ast.unparse(node) == "copy.copy" and part != "_lazy":
            yield f"{node.lineno}: copy.copy outside _lazy"


def blind_options(part, source):
    """Options are passed on by functions whose docstring says which they are.

    A mapping of another origin is never spread over a call within the package.
    """
    within = functions_of_the_package(source)
    for name, function in named_functions(source):
        options = function.args.kwarg and function.args.kwarg.arg
        body = [node for statement in function.body for node in ast.walk(statement)]
        used = any(isinstance(node, ast.Name) and node.id == options for node in body)
        documented = f"**{options} : " in (ast.get_docstring(function) or "")
        if used and not documented and name not in STAND_INS:
            yield f"{function.lineno}: {name} does not document **{options}"
        for call in (node for node in body if isinstance(node, ast.Call)):
            callee = ast.unparse(call.func)
            spread = [k.value for k in call.keywords if k.arg is None]
            blind = [v for v in map(ast.unparse, spread) if v != options]
            is_ours = callee in within or re.match(r"(self|cls|super\(\))\.", callee)
            if blind and is_ours:
                yield f"{call.lineno}: {name} spreads {blind[0]} over {callee}"


def named_functions(source):
    """Yield (name, node) of all functions; a method is named with its class."""
    tree = ast.parse(source)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    prefixes = {method: f"{kind.name}." for kind in classes for method in kind.body}
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            yield prefixes.get(node, "") + node.name, node


def functions_of_the_package(source):
    definitions = nodes(source, ast.ClassDef, *FUNCTIONS)
    return {node.name for node in definitions} | {
        name for _, module, name in imported(source) if ours(module, name)
    }


def long_modules(part, source):
    n_lines = len(source.splitlines())
    if n_lines > MAX_LINES_OF_MODULE:
        yield f"{n_lines} lines; at most {MAX_LINES_OF_MODULE}"


def long_functions(part, source):
    code = lines_of_code(source)
    for function in nodes(source, *FUNCTIONS):
        first = function.body[0]
        lines = set(range(function.lineno, function.end_lineno + 1)) & code
        if ast.get_docstring(function) is not None:
            lines -= set(range(first.lineno, first.end_lineno + 1))
        if len(lines) > MAX_LINES_OF_FUNCTION:
            yield (
                f"{function.lineno}: {function.name} has {len(lines)} lines of code; "
                f"at most {MAX_LINES_OF_FUNCTION}"
            )


def lines_of_code(source):
    """Return the numbers of the lines that hold more than comments."""
    layout = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def wide_constructors(part, source):
    for function in nodes(source, *FUNCTIONS):
        given = function.args
        n_given = len(given.posonlyargs + given.args + given.kwonlyargs) - 1
        if function.name == "__init__" and n_given > MAX_PARAMETERS:
            yield (
                f"{function.lineno}: a constructor with {n_given} parameters; at most "
                f"{MAX_PARAMETERS}"
            )


def unclear_openings(part, source):
    """Docstrings name their subject first; those of attributes do, too."""
    for node in nodes(source, ast.Expr):
        text = node.value.value if isinstance(node.value, ast.Constant) else None
        if isinstance(text, str) and re.match(r"\s*(Of|What|Whether)\b", text):
            yield f"{node.lineno}: begins with {text.split()[0]}; put the subject first"


RULES = [
    forward_imports,
    heavy_imports,
    imports_of_matplotlib,
    private_imports,
    private_attributes,
    shallow_copies,
    blind_options,
    long_modules,
    long_functions,
    wide_constructors,
    unclear_openings,
]


def test_the_order_lists_every_module():
    assert sorted(ORDER) == sorted(MODULES)
    assert set(MODULES) >= LIGHT


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_modules_keep_the_rules(rule):
    complaints = [
        f"{part}:{complaint}"
        for part, source in MODULES.items()
        for complaint in rule(part, source)
    ]
    assert complaints == []


@pytest.mark.parametrize("folder", ["examples", "tests"])
def test_docstrings_elsewhere_keep_the_rule(folder):
    complaints = [
        f"{path}:{complaint}"
        for path in sorted((Path(__file__).parents[1] / folder).rglob("*.py"))
        for complaint in unclear_openings("", path.read_text())
    ]
    assert complaints == []


def test_size_of_the_package():
    n_lines = sum(len(source.splitlines()) for source in MODULES.values())
    assert n_lines <= MAX_LINES_OF_PACKAGE


def test_no_exception_outlives_its_use():
    sources = list(MODULES.values())
    used = {
        f"{module}.{name}" for text in sources for _, module, name in imported(text)
    } | {
        f"{whose}.{name}"
        for text in sources
        for whose, name in map(reached, nodes(text, ast.Attribute, ast.Call))
    }
    assert used >= set(EXCEPTIONS)
    defined = {name for text in sources for name, _ in named_functions(text)}
    assert defined >= STAND_INS


PARAMETERS = ", ".join(f"p{number}" for number in range(MAX_PARAMETERS + 1))


@pytest.mark.parametrize(
    ("rule", "part", "source", "complaint"),
    [
        (forward_imports, "_drop", "import sk_datadrop._plan", "imports _plan, which"),
        (forward_imports, "_drop", "from sk_datadrop import _plan", "imports _plan, "),
        (forward_imports, "_drop", "from sk_datadrop._plan import Plan", "imports _pl"),
        (forward_imports, "_drop", "def f():\n import sk_datadrop._plan", "2: imports"),
        (forward_imports, "_drop", "from sk_datadrop import CG", "imports __init__"),
        (forward_imports, "_drop", "from ._splits import Split", "in full"),
        (
            forward_imports,
            "_solvers._base",
            "from sk_datadrop._solvers._cg import CG",
            "_solvers._cg, which does not stand before _solvers._base",
        ),
        (heavy_imports, "_drop", "import torch.nn", "imports torch.nn, which is not"),
        (heavy_imports, "metrics", "from joblib import hash", "imports joblib"),
        (heavy_imports, "datasets", "from skorch import NeuralNet", "imports skorch"),
        (heavy_imports, "datasets", "from sk_datadrop import nets", "is not light"),
        (imports_of_matplotlib, "_displays", "import matplotlib.pyplot", "outside the"),
        (
            imports_of_matplotlib,
            "_curves",
            "def f():\n    from matplotlib import pyplot",
            "2: imports matplotlib outside the functions of the displays",
        ),
        (
            private_imports,
            "_plan",
            "from sk_datadrop._drop import keep_mask, _p_values",
            "sk_datadrop._drop._p_values is private",
        ),
        (private_imports, "_plan", "from sklearn.utils import _tags", "_tags is priv"),
        (private_attributes, "_plan", "engine._score(1)", "engine._score is private"),
        (private_attributes, "_plan", "def f(a):\n a.b._c = 1", "2: a.b._c is private"),
        (private_attributes, "_plan", "type(self)._check()", r"\(self\)._check is pri"),
        (private_attributes, "_plan", "getattr(net, '_module')", "net._module is priv"),
        (
            private_attributes,
            "_plan",
            "def _score(): ...\nengine._score()",
            "2: engine._score is private",
        ),
        (
            shallow_copies,
            "_curves",
            "import copy\ncopy.copy(model)",
            "2: copy.copy out",
        ),
        (shallow_copies, "_curves", "from copy import copy", "1: imports from copy"),
        (
            blind_options,
            "_plan",
            "def f(X, **options):\n    return g(X, **options)",
            r"f does not document \*\*options",
        ),
        (
            blind_options,
            "_plan",
            "def g(a): ...\ndef f(shared):\n    return g(**shared)",
            "3: f spreads shared over g",
        ),
        (
            blind_options,
            "_plan",
            "class A:\n def f(self):\n  return self.g(**self.shared())",
            r"3: A.f spreads self.shared\(\) over self.g",
        ),
        (
            blind_options,
            "_plan",
            "class A(B):\n def f(self, a):\n  super().g(**a)",
            r"3: A.f spreads a over super\(\).g",
        ),
        (
            blind_options,
            "_plan",
            "from sk_datadrop._drop import g\ndef f(a):\n    return g(**a | {'b': 1})",
            r"3: f spreads a \| {'b': 1} over g",
        ),
        (long_modules, "_plan", "a = 1\n" * (MAX_LINES_OF_MODULE + 1), "451 lines"),
        (
            long_functions,
            "_plan",
            'def f():\n    """Do."""\n    # Why.\n\n' + "    a = 1\n" * 50,
            "1: f has 51 lines of code; at most 50",
        ),
        (
            wide_constructors,
            "_plan",
            f"class A:\n    def __init__(self, a, *, {PARAMETERS}): ...",
            f"2: a constructor with {MAX_PARAMETERS + 2} parameters; at most ",
        ),
        (
            unclear_openings,
            "_plan",
            '"""What is planned."""',
            "1: begins with What; put",
        ),
        (
            unclear_openings,
            "_plan",
            'def f():\n    """Whether so."""',
            "2: begins with Whether",
        ),
        (
            unclear_openings,
            "_plan",
            'class A:\n "\\nOf a plan: all."',
            "2: begins with Of",
        ),
        (
            unclear_openings,
            "_plan",
            'N = 2\n"""Of each class."""',
            "2: begins with Of; put",
        ),
    ],
)
def test_a_breach_is_seen(rule, part, source, complaint):
    complaints = list(rule(part, source))
    assert len(complaints) == 1
    assert re.search(complaint, complaints[0])


@pytest.mark.parametrize(
    ("rule", "part", "source"),
    [
        (forward_imports, "_plan", "from sk_datadrop._drop import keep_mask"),
        (heavy_imports, "nets", "import torch"),
        (imports_of_matplotlib, "_displays", "def f():\n import matplotlib.pyplot"),
        (private_imports, "__init__", "from sk_datadrop import _plan"),
        (private_imports, "_plan", "from sklearn.utils import _safe_indexing"),
        (private_attributes, "_plan", "class A(B):\n def f(self):\n  self._inherited"),
        (private_attributes, "_plan", "class A:\n def _f(self): ...\ndef g(a):\n a._f"),
        (private_attributes, "_plan", "torch.nn.modules.loss._WeightedLoss"),
        (private_attributes, "_plan", "a.__dict__"),
        (shallow_copies, "_lazy", "import copy\ncopy.copy(rows)"),
        (shallow_copies, "_curves", "import copy\ncopy.deepcopy(X)"),
        (blind_options, "_plan", "def on_epoch_end(self, net, **kwargs): ..."),
        (blind_options, "_plan", "def f(net, params):\n net.fit(**params)"),
        (
            blind_options,
            "_plan",
            'def f(**a):\n    """Do.\n\n    **a : dict\n    """\n    f(**a)',
        ),
        (long_functions, "_plan", "def f():\n" + "    a = 1\n    # Why.\n\n" * 49),
        (wide_constructors, "_plan", f"def f(self, a, {PARAMETERS}): ..."),
        (
            unclear_openings,
            "_plan",
            '"""Offer a plan, whatever it is."""\nf("Of these")',
        ),
    ],
)
def test_what_keeps_the_rules_is_let_be(rule, part, source):
    assert list(rule(part, source)) == []
