"""The catalog: what adapters, bases and models there are, and what was done to them.

``engine.Catalog`` opens it: ``read()`` for a look, ``write()`` for the one
transaction of a use case, in which only ``commit()`` keeps. What they give goes as
the first argument into the functions of the other modules, one module a noun:

    series        names, shared by adapters and models
    versions      what both are made of: finding, removing
    adapters      what an adapter is
    models        how a model was built, and from what
    bases         the checkpoints that adapters are made for
    sources       where versions came from
    marks         aliases, tags, notes, metrics
    blobs         what the store must keep
    listing       pages of versions by filter, words and order
    show          all of one version
    history       what was done, ever

``records`` holds the values that go in and out, ``schema`` the tables. Only
``sqlite`` and ``server`` know which database it is.
"""
