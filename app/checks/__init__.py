"""The checks over all connectors, C01 to C14: what they want and why is in docs/adding-a-connector.md.

They know the contract and nothing of the platform, so that they work on a connector in any folder. The
tests run them over every connector of the registry, `trunkline check` over any.

    model      a check, a finding, a result
    subject    a connector under test, and how they are found
    run        carries checks out, with exemptions and a deadline
    catalogue  the checks

Everything else is a check or what checks need: made-up connections, payloads, garbage, requests signed as
the provider would, a stand-in for every provider.
"""
