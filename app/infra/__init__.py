"""Machinery without domain: storage, work queue, ids, encryption, logs."""
