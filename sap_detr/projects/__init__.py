"""Methods built on the library: `sap_detr.projects.NAME` is the folder `projects/NAME/NAME`.

setup.py makes the connection, so that a new project needs `pip install -e .` once more.
"""
