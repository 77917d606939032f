"""HTML reports and charts, drawn by matplotlib and written through Jinja2 templates: the ``[evaluate]`` extra."""
