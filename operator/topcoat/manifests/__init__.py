"""Spells Kubernetes objects from what was decided. Pure: the same words give the same object, byte for byte.

Nothing that a tenant wrote gets in here but through fields of the API whose patterns were checked.
"""
