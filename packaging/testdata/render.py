"""Renders the Salt formula as Salt does, with the pillar that comes with it, and prints the data as JSON."""

import json
import pathlib
import sys

import jinja2
import yaml

class Once(yaml.SafeLoader):
    """Like Salt's own loader it refuses a state that is there twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f"twice: {twice}")
        return super().construct_mapping(node, deep)

def render(root, name, **context):
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(root), undefined=jinja2.StrictUndefined)
    return yaml.load(environment.get_template(name).render(**context), Loader=Once)

pillar = render("salt/pillar", "vifproxy/init.sls")
grains = {"os_family": "Debian"}
files = {}
for path in sorted(pathlib.Path("salt").rglob("*.*")):
    if path.suffix in (".sls", ".top"):
        root = "salt/pillar" if "pillar" in path.parts else "salt"
        files[str(path.relative_to("salt"))] = render(root, str(path.relative_to(root)), pillar=pillar, grains=grains)
json.dump(files, sys.stdout)
