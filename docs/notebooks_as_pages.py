"""A hook of mkdocs: notebooks become pages of the site, with the outputs that are in the files; nothing is executed.

They are made Markdown first, so that their links are checked, and look, as those of other pages do.
"""

from __future__ import annotations

import posixpath
import re

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

LINK = re.compile(r"(\]\((?!\w+:)[^)#\s]+)\.ipynb([)#])")
"""A link to a notebook of the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put a page beside each notebook, and a file beside it for each picture.

    Args:
        files: All files of the site.
        config: The site's settings.
    """
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        folder, name = posixpath.split(notebook.src_uri.removesuffix(".ipynb"))
        told = {"unique_key": name, "output_files_dir": f"{name}_files"}
        text, made = MarkdownExporter().from_notebook_node(nbformat.read(notebook.abs_src_path, 4), told)
        text = text.replace("![png]", "![What the cell above draws]")
        files.append(File.generated(config, f"{folder}/{name}.md", content=text))
        for path, content in made["outputs"].items():
            files.append(File.generated(config, f"{folder}/{path}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to notebooks lead to their pages, and these say where the notebook is.

    Args:
        markdown: Text of a page.
        page: The page.
        config: The site's settings.
        files: All files of the site.
    """
    text = LINK.sub(r"\1.md\2", markdown)
    notebook = page.file.src_uri.removesuffix(".md") + ".ipynb"
    if files.get_file_from_path(notebook) is None:
        return text
    title, _, rest = text.partition("\n")
    return f"{title}\n\n[:material-download: The notebook]({posixpath.basename(notebook)}){{ .md-button }}\n{rest}"
