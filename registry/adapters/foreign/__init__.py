"""Adapters that PEFT did not write, each read into what PEFT would have written.

One file a format. A format's ``convert`` gives a ``Converted``: the bytes of an
adapter_config.json, and tensors under PEFT's names that are made while they are written.
``door.convert`` finds out which format a path holds, or refuses it by name.
"""
