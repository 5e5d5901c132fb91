"""From a bundle to a Bento and a container image.

``flavours`` says what an image can hold, ``plan`` what this one does, ``context`` writes the folder
that is built (the Dockerfile, the Bento, the locks), ``index`` finds how packages are reached here,
``builders`` runs docker, podman or buildah, and ``build`` does it all in order.
"""
