"""Pages that one looks at: what they show and how, without a server.

A page is one HTML file that holds everything it shows and loads nothing. JavaScript and CSS are files of this folder;
NiiVue, which draws volumes, is bundled into ``built`` by ``scripts/viewer``, and part of the wheel.
"""
