"""Pages as Jinja2 templates: HTML of the feature server, Markdown and SVG of the docs site. One file a page.

Face: `render`.
"""
