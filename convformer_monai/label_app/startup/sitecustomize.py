"""Python imports this at start in the processes of a label server, whose PYTHONPATH holds this folder."""

from convformer_monai.label_app.compat import serve_moved_uids

serve_moved_uids()
