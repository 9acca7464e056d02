"""What `trunkline new` writes: a connector that passes every check before anybody has touched it.

    naming      one name, and how it reads in keys, classes, headers and titles
    sample      a captured payload: read like the platform reads, rid of what is nobody's business
    inference   Pydantic models of what a sample holds
    source      Python that reads as if somebody had written and formatted it
    rendering   the templates, with a name and perhaps a sample
    writing     files, all of them or none

`templates` holds a connector for each shape. It knows the contract, and nothing of the platform.
"""
