{#-
A netvm that runs vifproxy, and the AppVMs behind it, as the pillar says.

Before: install the package vifproxy in a template, enable the user directories of Salt (`qubesctl state.sls
qubes.user-dirs`), copy the directory vifproxy to /srv/user_salt, pillar/vifproxy to /srv/user_pillar, and edit the
pillar. Then, in dom0:

  sudo qubesctl top.enable vifproxy
  sudo qubesctl top.enable vifproxy pillar=True
  sudo qubesctl --targets=sys-vifproxy state.apply

The netvm's name stands here and in the two files init.top. What is made of the AppVMs, which must exist: their netvm;
their address, by which a rule file is theirs; and the first rule of their firewall, which drops all that passes the
netvm, DNS and ICMP included. What goes to the proxy does not pass. `qvm-firewall NAME del --rule-no 0` takes that back.
-#}
{%- set config = pillar['vifproxy'] -%}

vifproxy-netvm:
  qvm.vm:
    - name: sys-vifproxy
    - present:
      - template: {{ config.template }}
      - label: {{ config.label }}
    - prefs:
      - template: {{ config.template }}
      - label: {{ config.label }}
      - netvm: {{ config.upstream }}
      - provides-network: true
      - autostart: true
      - include-in-backups: true
    - service:
      - enable:
        - vifproxy
{% for name, appvm in config.appvms.items() %}
vifproxy-{{ name }}-netvm:
  qvm.prefs:
    - name: {{ name }}
    - netvm: sys-vifproxy
    - require:
      - qvm: vifproxy-netvm
      - cmd: vifproxy-{{ name }}-firewall

# qvm.prefs knows nothing of addresses.
vifproxy-{{ name }}-ip:
  cmd.run:
    - name: qvm-prefs -- {{ name }} ip {{ appvm.ip }}
    - unless: test "$(qvm-prefs -- {{ name }} ip)" = {{ appvm.ip }}

vifproxy-{{ name }}-firewall:
  cmd.run:
    - name: qvm-firewall {{ name }} add --before 0 drop
    - unless: qvm-firewall --raw {{ name }} list | head -n 1 | grep -qx action=drop
{% endfor %}
