"""Configuration of the documentation: ``python -m sphinx docs docs/_build/html``."""

import html
import os
import re
import sys
import tempfile
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from docutils.nodes import SkipNode, section
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.util.logging import getLogger
from sphinx_gallery.sorting import ExplicitOrder

from sk_datadrop import __version__

HERE = Path(__file__).parent

# Run the gallery on less data: minutes instead of the better part of an hour.
os.environ.setdefault("SK_DATADROP_QUICK", "1")

METADATA = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
project = "sk_datadrop"
copyright = "2026, the sk_datadrop developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "literal"

# Every link inside the site must lead somewhere. Other projects' names are not looked
# up: the site is built without a network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|skorch|sklearn|imblearn|joblib|matplotlib|numpy)\..*"),
]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # the sorting key of the gallery cannot be pickled

autosummary_generate = True
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # the docstrings say more
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

SECTIONS = ["start_here", "own_data", "inside"]
EXAMPLES = [
    "plot_label_noise.py",
    "plot_inspect.py",
    "plot_drop_curve.py",
    "plot_robust_loss.py",
    "plot_denoising.py",
    "plot_wrong_unit.py",
    "plot_grid_search.py",
    "plot_image_folder.py",
    "plot_csv.py",
    "plot_image_pairs.py",
    "plot_pretrained.py",
    "plot_own_training_loop.py",
    "plot_solvers_agree.py",
]


def _in_order(path):
    return EXAMPLES.index(Path(path).name)


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
    "subsection_order": ExplicitOrder([f"../examples/{name}" for name in SECTIONS]),
    "within_subsection_order": _in_order,
    "minigallery_sort_order": _in_order,
    "doc_module": ("sk_datadrop",),
    "backreferences_dir": "generated/backreferences",
    "thumbnail_size": (480, 336),
    "image_srcset": ["2x"],
    "abort_on_example_error": True,
    "show_memory": False,
    "write_computation_times": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "plot_gallery": "True",
    "parallel": 2,
}

html_theme = "pydata_sphinx_theme"
html_title = "sk_datadrop"
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "sk_datadrop"},
    "navbar_align": "left",
    "navbar_start": ["navbar-logo", "release"],
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "icon_links": [
        {"name": name, "url": address, "icon": "fa-brands fa-github"}
        for name, address in METADATA.get("urls", {}).items()
        if name == "Source"
    ],
}
# Pages that have no pages below them to navigate to.
html_sidebars = {page.stem: [] for page in HERE.glob("*.md")}


def _head_the_sidebar(app, doctree):
    """Put the sections of the API page above its entries in the sidebar, too."""
    for toctree in doctree.findall(addnodes.toctree):
        heading = toctree
        while heading.parent and not isinstance(heading, section):
            heading = heading.parent
        if app.env.docname == "api":
            toctree["caption"] = toctree["rawcaption"] = heading[0].astext()


def _between_pages_read_in_order(app, pagename, templatename, context, doctree):
    """Leave out links to the page before and after from and into the reference."""
    for way in ("prev", "next"):
        link = (context.get(way) or {}).get("link", "")
        if "generated/" in link or pagename.startswith(("api", "generated/")):
            context[way] = None


def _skip_inherited(app, what, name, member, skip, options):
    """Leave out what scikit-learn, skorch and torch document themselves."""
    member = getattr(member, "fget", getattr(member, "__func__", member))
    ours = str(getattr(member, "__module__", "")).startswith("sk_datadrop")
    return None if ours else True


def _visit_math(translator, node):
    """Write MathML, which browsers draw without scripts or a network."""
    translator.body.append(convert(node.astext()))
    raise SkipNode


def _visit_math_block(translator, node):
    formula = convert(node.astext(), display="block")
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise SkipNode


class _Links(HTMLParser):
    """The anchors of a page, and where its links lead."""

    def __init__(self, page):
        super().__init__()
        self.anchors, self.targets = set(), set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id"))
        self.targets |= {attrs.get("href"), attrs.get("src")} - {None}


def _complain(app, message, *details):
    """Let the build fail, whether or not warnings do."""
    getLogger(__name__).warning(message, *details)
    app.statuscode = 1


def _pages(app):
    site = Path(app.outdir).resolve()
    return [
        page for page in site.rglob("*.html") if site / "_static" not in page.parents
    ]


def _check_links(app, exception):
    """Complain of links to pages, files or anchors that the site lacks."""
    if exception or app.builder.name != "html":
        return
    pages = {page: _Links(page) for page in _pages(app)}
    for page, links in pages.items():
        for target in links.targets:
            url = urlsplit(html.unescape(target))
            if url.scheme or url.netloc:
                continue
            path = (page.parent / unquote(url.path)).resolve() if url.path else page
            anchor = unquote(url.fragment)
            if not path.exists() or (
                anchor and path in pages and anchor not in pages[path].anchors
            ):
                _complain(app, "%s: no %s", page.name, target)


def unwanted(page):
    """Return what the outputs of an example have that no reader needs.

    Parameters
    ----------
    page : str
        HTML of the page.

    Returns
    -------
    list of str
        Names of warnings, and folders of the machine that built the page.
    """
    folders = [HERE.parent, Path.home(), Path(sys.prefix), Path(tempfile.gettempdir())]
    known = "|".join(re.escape(str(path)) for path in folders if path.name)
    outputs = re.findall(r"sphx-glr-script-out.*?</pre>", page, re.DOTALL)
    text = html.unescape(re.sub("<.*?>", "", "\n".join(outputs)))
    return re.findall(rf"\w*Warning\b|(?:{known})\b", text)


def _check_outputs(app, exception):
    """Complain of warnings and paths of this machine among the outputs."""
    if exception or app.builder.name != "html":
        return
    for page in _pages(app):
        for found in unwanted(page.read_text()):
            _complain(app, "%s: an example prints %s", page.name, found)


def setup(app):
    """Register the renderer of formulas and what is done to pages."""
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math_block, None))
    app.connect("autodoc-skip-member", _skip_inherited)
    # Before the tables of contents are collected.
    app.connect("doctree-read", _head_the_sidebar, priority=1)
    app.connect("html-page-context", _between_pages_read_in_order)
    app.connect("build-finished", _check_links)
    app.connect("build-finished", _check_outputs)
