"""The site of `docs/`: `make docs` builds it into build/docs, and every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import aikcache

project = "aikcache"
author = "the aikcache authors"
version = release = aikcache.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "site_pages"]
exclude_patterns = ["_ext", "images"]
default_role = "code"
highlight_language = "text"
smartquotes_action = "D"  # dashes alone: what is quoted is often code

# Headings get the anchors that code hosts give them, so one link works in both places.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "attrs_inline"]

autodoc_typehints = "none"  # the signature shows them; docstrings say what they mean
autodoc_member_order = "bysource"
# Names of other packages, and private ones, are shown and lead nowhere: without a network there is no inventory.
nitpick_ignore_regex = [("py:.*", r"(?!aikcache\.[A-Za-z]+$).*")]

# Furo brings its fonts and scripts along, so a page asks no other host for anything.
html_theme = "furo"
html_title = f"aikcache {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
