{#-
Takes away what dom0.sls has made, but the netvm and the AppVMs themselves: `sudo qubesctl state.sls vifproxy.removed`, with the pillar
as it was. Then the AppVMs have their netvm of before, and what their firewall permits. The packages stay in the template until
`sudo qubesctl --skip-dom0 --targets=debian-13-xfce state.sls vifproxy.template-removed`.
-#}
{%- from 'vifproxy/names.jinja' import feature -%}
{%- set config = pillar['vifproxy'] -%}

vifproxy-lists-removed:
  qvm.features:
    - name: {{ config.netvm }}
    - default:
{%- for name, appvm in config.appvms.items() %}
      - {{ feature(name, appvm.ip) }}
{%- endfor %}

vifproxy-services-removed:
  qvm.service:
    - name: {{ config.netvm }}
    - default:
      - vifproxy
      - vifproxy-firewall

vifproxy-policy-removed:
  file.absent:
    - name: /etc/qubes/policy.d/30-vifproxy.policy
{% for name, appvm in config.appvms.items() %}
vifproxy-{{ name }}-firewall-removed:
  cmd.run:
    - name: qvm-firewall {{ name }} del --rule-no 0
    - onlyif: qvm-firewall --raw {{ name }} list | head -n 1 | grep -qx action=drop
    - require:
      - qvm: vifproxy-{{ name }}-netvm-removed

# Before the AppVM is open, it leaves the netvm that had its list.
vifproxy-{{ name }}-netvm-removed:
  qvm.prefs:
    - name: {{ name }}
    - netvm: {{ config.upstream }}
{% endfor %}
