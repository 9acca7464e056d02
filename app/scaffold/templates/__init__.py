"""What `trunkline new` writes, once for each shape: working connectors of a service called Acme.

The modules are code like any other: types, lint and imports are checked with the rest. Lines between
`# <inbound>` and `# </inbound>` are what is replaced where a captured payload says what comes in.
"""
