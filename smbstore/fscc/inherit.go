package fscc

// NewDescriptor makes the descriptor of a new object (MS-DTYP 2.5.3.4): parent
// is its folder's (nil: none), creator what came with the create request (nil:
// none), t who creates. Where neither gives a list, the new object belongs to
// its owner and the system alone.
//
// Inherited entries get INHERITED_ACE, and are appended to a list the creator
// gives, only below a folder whose own list is marked auto-inherited, as Windows
// does. A list that inherits nothing counts as none. ErrInvalid if a list grows
// too long to be stored.
func NewDescriptor(parent, creator *SecurityDescriptor, t *Token, folder bool) (*SecurityDescriptor, error) {
	if parent == nil {
		parent = &SecurityDescriptor{}
	}
	if creator == nil {
		creator = &SecurityDescriptor{}
	}
	d := &SecurityDescriptor{Owner: creator.Owner, Group: creator.Group}
	if d.Owner.IsZero() {
		d.Owner = t.User
	}
	if d.Group.IsZero() {
		d.Group = t.primaryGroup()
	}
	in := inheriting{owner: d.Owner, group: d.Group, folder: folder}
	d.newDACL(parent, creator, in)
	d.newSACL(parent, creator, in)
	return d, d.Check()
}

func (d *SecurityDescriptor) newDACL(parent, creator *SecurityDescriptor, in inheriting) {
	auto := parent.Control&SE_DACL_AUTO_INHERITED != 0
	d.Control |= SE_DACL_PRESENT
	if creator.Control&SE_DACL_PRESENT != 0 || creator.DACL != nil {
		protected := creator.Control&SE_DACL_PROTECTED != 0
		d.Control |= creator.Control & SE_DACL_PROTECTED
		d.DACL = in.explicit(creator.DACL, protected)
		if auto && !protected && d.DACL != nil {
			d.DACL.ACEs = append(d.DACL.ACEs, in.inherit(parent.DACL, true)...)
			d.Control |= SE_DACL_AUTO_INHERITED
		}
		return
	}
	if aces := in.inherit(parent.DACL, auto); len(aces) > 0 {
		d.DACL = &ACL{ACEs: aces}
		d.Control |= parent.Control & SE_DACL_AUTO_INHERITED
		return
	}
	d.DACL = &ACL{ACEs: []ACE{
		Allow(d.Owner, FILE_ALL_ACCESS, 0),
		Allow(SIDLocalSystem, FILE_ALL_ACCESS, 0),
	}}
}

func (d *SecurityDescriptor) newSACL(parent, creator *SecurityDescriptor, in inheriting) {
	auto := parent.Control&SE_SACL_AUTO_INHERITED != 0
	if creator.SACL != nil {
		protected := creator.Control&SE_SACL_PROTECTED != 0
		d.Control |= SE_SACL_PRESENT | creator.Control&SE_SACL_PROTECTED
		d.SACL = in.explicit(creator.SACL, protected)
		if auto && !protected {
			d.SACL.ACEs = append(d.SACL.ACEs, in.inherit(parent.SACL, true)...)
			d.Control |= SE_SACL_AUTO_INHERITED
		}
		return
	}
	if aces := in.inherit(parent.SACL, auto); len(aces) > 0 {
		d.SACL = &ACL{ACEs: aces}
		d.Control |= SE_SACL_PRESENT | parent.Control&SE_SACL_AUTO_INHERITED
	}
}

// inheriting is what entries are made concrete with.
type inheriting struct {
	owner, group SID
	folder       bool
}

// explicit is the creator's list as the new object's own: what it had inherited
// elsewhere is left out, or, in a protected list, becomes its own.
func (in inheriting) explicit(l *ACL, protected bool) *ACL {
	if l == nil {
		return nil
	}
	out := &ACL{Revision: l.Revision}
	for _, a := range l.ACEs {
		if a.Flags&INHERITED_ACE != 0 && !protected {
			continue
		}
		a.Flags &^= INHERITED_ACE
		if a.Flags&INHERIT_ONLY_ACE != 0 {
			out.ACEs = append(out.ACEs, a)
			continue
		}
		out.ACEs = in.appendEffective(out.ACEs, a, a.Flags)
	}
	return out
}

// inherit returns what an object takes over from its folder's list (MS-DTYP
// 2.5.3.4.4, the table of flags), marked as inherited if mark is set.
func (in inheriting) inherit(parent *ACL, mark bool) (out []ACE) {
	if parent == nil {
		return nil
	}
	var inherited uint8
	if mark {
		inherited = INHERITED_ACE
	}
	for _, a := range parent.ACEs {
		if a.Flags&inheritable == 0 || a.isObject() {
			continue
		}
		keep := a.Flags&^inheritance | inherited
		pass := keep | a.Flags&inheritable
		propagate := in.folder && a.Flags&NO_PROPAGATE_INHERIT_ACE == 0
		switch {
		case !in.folder && a.Flags&OBJECT_INHERIT_ACE == 0:
		case in.folder && a.Flags&CONTAINER_INHERIT_ACE == 0:
			if propagate {
				a.Flags = pass | INHERIT_ONLY_ACE
				out = append(out, a)
			}
		case propagate:
			out = in.appendEffective(out, a, pass)
		default:
			out = in.appendEffective(out, a, keep)
		}
	}
	return out
}

// appendEffective appends a with flags, its macro SIDs and generic rights made
// concrete. If that changes an entry others are to inherit, it becomes two: the
// concrete one for this object, and the original for those below.
func (in inheriting) appendEffective(out []ACE, a ACE, flags uint8) []ACE {
	concrete := a
	concrete.Flags = flags
	if !a.raw() {
		switch a.SID {
		case SIDCreatorOwner:
			concrete.SID = in.owner
		case SIDCreatorGroup:
			concrete.SID = in.group
		}
		concrete.Mask = a.Mask.MapGeneric()
	}
	if flags&inheritable != 0 && (concrete.SID != a.SID || concrete.Mask != a.Mask) {
		concrete.Flags &^= inheritance &^ INHERITED_ACE
		a.Flags = flags | INHERIT_ONLY_ACE
		return append(out, concrete, a)
	}
	return append(out, concrete)
}
